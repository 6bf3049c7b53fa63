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
def net(
    directory: SweepDirectory,
    trial: Annotated[int | None, typer.Option(help="This one, in place of the best.")] = None,
    macs: Annotated[
        str | None, typer.Option(help="Multiply its widths, up to so many MACs of one image: 6.9M, 1.5G.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the option: best, or trial<n>.")] = None,
    config_dir: Annotated[
        Path | None, typer.Option(help="Where to write model/<name>.yaml; the sweep directory.")
    ] = None,
) -> None:
    """Write the net of a search's best trial as a yaml that model= takes."""
    from crescendo.scaling.budgets import COUNTS, parse_quantity
    from crescendo.sweeps.nets import best_job, write_net
    from crescendo.sweeps.record import Sweep

    allowed = parse_quantity("--macs", macs, COUNTS) if macs is not None else None
    sweep = Sweep.read(directory)
    job = best_job(sweep, trial)
    option = name or ("best" if trial is None else f"trial{trial}")
    print(f"python train.py {write_net(sweep, job, config_dir or directory, option, allowed)}")


@app.command()
def resume(directory: SweepDirectory) -> None:
    """Run the jobs of a sweep that are missing, failed or interrupted."""
    from crescendo.sweeps.record import Sweep
    from crescendo.sweeps.resuming import resume_sweep

    resume_sweep(Sweep.read(directory))


@app.command()
def coefficients(
    directory: SweepDirectory,
    table: Annotated[
        Path | None, typer.Option("--csv", help="A file to write: a row for each finished run.")
    ] = None,
    markdown: Annotated[Path | None, typer.Option(help="A file to write: the table.")] = None,
) -> None:
    """Show the winner of sweep=compound_coefficients, its lead, and what trains with it."""
    from rich import get_console

    from crescendo.sweeps.candidate_tables import show_candidates, show_standings, write_csv, write_markdown
    from crescendo.sweeps.record import Sweep
    from crescendo.sweeps.winner import Outcome

    outcome = Outcome.read(Sweep.read(directory))
    get_console().print(show_candidates(outcome.search), show_standings(outcome))
    if outcome.command is not None:
        print(outcome.command)  # on one line, to be pasted
    if table is not None:
        write_csv(outcome, table)
    if markdown is not None:
        write_markdown(outcome, markdown)
