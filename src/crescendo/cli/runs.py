"""Verbs about runs."""

import json
from pathlib import Path
from typing import Annotated

import typer

from crescendo.cli.options import AsJson, Device, RunDirectory, Trust


def evaluate(
    run: RunDirectory, as_json: AsJson = False, accelerator: Device = "auto", trust: Trust = False
) -> None:
    """Test a run's best checkpoint on its test images again."""
    from rich import get_console
    from rich.table import Table

    from crescendo.evaluation import evaluate_run

    metrics, class_accuracies = evaluate_run(run, accelerator, trust=trust)
    if as_json:
        print(json.dumps({"metrics": metrics, "class_accuracies": class_accuracies}, indent=2))
        return
    table = Table()
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in metrics.items():
        table.add_row(name, f"{value:.4f}")
    for name, value in class_accuracies.items():
        table.add_row(f"accuracy of {name}", f"{value:.4f}")
    get_console().print(table)


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


def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUNS...", help="Run directories, or directories of runs.")
    ],
    table: Annotated[
        Path | None, typer.Option("--csv", help="A file to write, too: a row for each finished run.")
    ] = None,
) -> None:
    """Compare runs: mean and spread over seeds, cost, time."""
    from rich import get_console

    from crescendo.analysis.comparison import compare as compare_runs
    from crescendo.analysis.comparison import show_comparison, write_runs
    from crescendo.runs import find_runs

    rows = compare_runs(find_runs(runs))
    get_console().print(show_comparison(rows))
    if table is not None:
        write_runs(rows, table)
