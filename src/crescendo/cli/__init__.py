"""`crescendo <verb>`: everything that is not training. Each verb works from any directory.

A verb imports what it needs when it is called, so that --help answers at once.
"""

import typer

from crescendo.cli import comparing, data, evaluating, nets, publishing, runs, sweeps, trained
from crescendo.errors import plain_errors

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Look at nets, images and runs. To train: python train.py --help",
)
for verb in (
    *(nets.models, nets.profile, nets.scale, nets.preview, nets.bench),
    *(data.check, data.pack),
    *(evaluating.evaluate, runs.predict, runs.reproduce, trained.explain, comparing.compare, trained.export),
    publishing.dashboard,
):
    app.command()(verb)
app.add_typer(sweeps.app, name="sweep")


def main() -> None:
    """The entry point: a user's mistake ends with one message and exit code 2."""
    with plain_errors():
        app()
