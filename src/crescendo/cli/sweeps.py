"""`crescendo sweep <verb>`."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Look at a sweep, or go on with it.")

SweepDirectory = Annotated[Path, typer.Argument(metavar="DIR", help="A sweep directory.")]


@app.command()
def status(directory: SweepDirectory) -> None:
    """Show the jobs of a sweep: overrides, status, test accuracy, seconds; of a study, each trial's value."""
    from rich import get_console

    from crescendo.sweeps.record import Sweep
    from crescendo.sweeps.table import show_sweep

    get_console().print(show_sweep(Sweep.read(directory)))


@app.command()
def resume(directory: SweepDirectory) -> None:
    """Run the jobs of a sweep that are missing, failed or interrupted."""
    from crescendo.sweeps.record import Sweep
    from crescendo.sweeps.resuming import resume_sweep

    resume_sweep(Sweep.read(directory))
