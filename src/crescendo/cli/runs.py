"""Verbs that use a run as it is."""

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crescendo.cli.options import AsJson, Device, RunDirectory, Trust
from crescendo.errors import UserError

if TYPE_CHECKING:
    from crescendo.evaluation import Answer


def predict(
    run: RunDirectory,
    files: Annotated[
        list[Path], typer.Argument(metavar="FILES...", help="Image files, and directories of them.")
    ],
    top: Annotated[int, typer.Option(min=1, help="Answers for each file.")] = 3,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print a row for each file.")] = False,
    num_workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that load; as many as the run's.")
    ] = None,
    accelerator: Device = "auto",
    trust: Trust = False,
) -> None:
    """Classify image files with a run's best checkpoint."""
    if as_json and as_csv:
        raise UserError("--json and --csv: give one of them.")
    from crescendo.data.listing import find_images
    from crescendo.evaluation import predict_files

    files = [file for given in files for file in (find_images(given) if given.is_dir() else [given])]
    answers = predict_files(run, files, top, accelerator, num_workers=num_workers, trust=trust)
    if as_json:
        print(
            json.dumps({str(file): dict(best) for file, best in zip(files, answers, strict=True)}, indent=2)
        )
    elif as_csv:
        _print_rows(files, answers)
    else:
        _show(files, answers)


def _print_rows(files: Sequence[Path], answers: Sequence[Sequence["Answer"]]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    columns = [f"{name}_{place + 1}" for place in range(len(answers[0])) for name in ("class", "probability")]
    writer.writerow(["file", *columns])
    for file, best in zip(files, answers, strict=True):
        writer.writerow([file, *(value for name, share in best for value in (name, f"{share:.6g}"))])


def _show(files: Sequence[Path], answers: Sequence[Sequence["Answer"]]) -> None:
    from rich import get_console
    from rich.table import Table

    table = Table()
    table.add_column("file", overflow="fold")
    for place in range(1, len(answers[0]) + 1):
        table.add_column(f"{place}.")
    for file, best in zip(files, answers, strict=True):
        table.add_row(str(file), *(f"{name} {probability:.3f}" for name, probability in best))
    get_console().print(table)


def reproduce(
    run: RunDirectory,
    runs_dir: Annotated[str | None, typer.Option(help="Where the new run goes; as the run has it.")] = None,
    trust: Trust = False,
) -> None:
    """Train a run again by its own record, and say whether the same came out, bit by bit."""
    from rich import get_console

    from crescendo.reproduction import reproduce as reproduce_run

    reproduction = reproduce_run(run, runs_dir=runs_dir, trust=trust)
    if reproduction is None:
        return
    console = get_console()
    for circumstance in reproduction.circumstances:
        console.print(f"not as it was: {circumstance}", highlight=False)
    for difference in reproduction.differences:
        console.print(f"different: {difference}", highlight=False)
    if reproduction.differences:
        raise typer.Exit(1)
    console.print("the same, bit by bit: weights, metrics and predictions", highlight=False)
