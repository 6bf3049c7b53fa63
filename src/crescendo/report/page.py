"""The page itself: a template, a style and a script of ours, plotly's library, and what was read."""

from datetime import datetime
from importlib.resources import files
from pathlib import Path

import crescendo
from crescendo.analysis.comparison import Comparison
from crescendo.errors import UserError
from crescendo.report.content import read_content
from crescendo.report.gallery import make_gallery
from crescendo.runs import write_whole

LARGEST = 10_000_000  # bytes that a page should stay below


def write_page(comparison: Comparison, path: Path, *, title: str, trust: bool = False) -> int:
    """Write the page and return its size in bytes.

    All that comes from runs is escaped: by the template in html, as JSON in the script.

    Args:
        trust: build sources of images of any package.

    Raises:
        UserError: the extra is not installed, or the file cannot be written.
    """
    try:
        from jinja2 import Environment, StrictUndefined
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError as error:
        raise UserError('--html needs pip install "crescendo[report]".') from error
    parts = files("crescendo.report")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    page = environment.from_string((parts / "page.html").read_text(encoding="utf-8")).render(
        title=title,
        content=read_content(comparison),
        gallery=make_gallery(comparison.rows, trust=trust),
        made=datetime.now().strftime("%Y-%m-%d %H:%M"),
        version=crescendo.__version__,
        style=(parts / "page.css").read_text(encoding="utf-8"),
        script=(parts / "page.js").read_text(encoding="utf-8"),
        plotly=get_plotlyjs(),
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, page)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.") from error
    return len(page.encode())
