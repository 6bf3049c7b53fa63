"""Arguments and options that several verbs take, and the picture that they write."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crescendo.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RunDirectory = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Trust = Annotated[bool, typer.Option("--trust", help="Build what the run names from any package.")]
Device = Annotated[str, typer.Option(help="auto, cpu, gpu or another Lightning accelerator.")]
Picture = Annotated[Path, typer.Option(help="The picture: png, pdf or svg.")]


def write_picture(figure: "Figure", out: Path) -> None:
    """Write what --out names, and print its name.

    Raises:
        UserError: it cannot be written, or has no format's suffix.
    """
    try:
        figure.savefig(out, dpi=150, facecolor="white")
    except (OSError, ValueError) as error:
        raise UserError(f"--out {out} cannot be written: {error}") from error
    print(out)
