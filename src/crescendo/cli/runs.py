"""Verbs that use a run."""

import json
from pathlib import Path
from typing import Annotated

import typer

from crescendo.cli.options import AsJson, RunDirectory, Trust


def predict(
    run: RunDirectory,
    files: Annotated[list[Path], typer.Argument(metavar="FILES...", help="Image files.")],
    top: Annotated[int, typer.Option(min=1, help="Answers to print for each file.")] = 3,
    as_json: AsJson = False,
    trust: Trust = False,
) -> None:
    """Classify image files with a run's best checkpoint."""
    from rich import get_console
    from rich.table import Table

    from crescendo.evaluation import predict_files

    answers = predict_files(run, files, top, trust=trust)
    if as_json:
        print(
            json.dumps({str(file): dict(best) for file, best in zip(files, answers, strict=True)}, indent=2)
        )
        return
    table = Table()
    table.add_column("file", overflow="fold")
    for place in range(1, len(answers[0]) + 1):
        table.add_column(f"{place}.")
    for file, best in zip(files, answers, strict=True):
        table.add_row(str(file), *(f"{name} {probability:.3f}" for name, probability in best))
    get_console().print(table)
