"""`crescendo <verb>`: everything that is not training. Each verb works from any directory."""

import json
from pathlib import Path
from typing import Annotated

import typer

from crescendo.errors import UserError, plain_errors

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Look at nets and runs. To train: python train.py --help",
)

RunDirectory = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Device = Annotated[str, typer.Option(help="auto, cpu, gpu or another Lightning accelerator.")]


@app.command()
def models(pattern: Annotated[str, typer.Argument(help='A shell pattern, such as "resnet*".')] = "*") -> None:
    """List the nets that model=<name> can choose."""
    from crescendo.models import list_models

    names = list_models(pattern)
    if not names:
        raise UserError(f"no net is called {pattern!r}; there are {', '.join(list_models())}.")
    print("\n".join(names))


@app.command()
def evaluate(run: RunDirectory, as_json: AsJson = False, accelerator: Device = "auto") -> None:
    """Test a run's best checkpoint on its test images again."""
    from rich import get_console
    from rich.table import Table

    from crescendo.evaluation import evaluate_run

    metrics, class_accuracies = evaluate_run(run, accelerator)
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


@app.command()
def predict(
    run: RunDirectory,
    files: Annotated[list[Path], typer.Argument(metavar="FILES...", help="Image files.")],
    top: Annotated[int, typer.Option(min=1, help="Answers to print for each file.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Classify image files with a run's best checkpoint."""
    from rich import get_console
    from rich.table import Table

    from crescendo.evaluation import predict_files

    answers = predict_files(run, files, top)
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


@app.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUNS...", help="Run directories, or directories of runs.")
    ],
) -> None:
    """Compare runs: mean and spread over seeds, cost, time."""
    from rich import get_console

    from crescendo.analysis.comparison import compare as compare_runs
    from crescendo.analysis.comparison import show_comparison
    from crescendo.runs import find_runs

    get_console().print(show_comparison(compare_runs(find_runs(runs))))


def main() -> None:
    """The entry point: a user's mistake ends with one message and exit code 2."""
    with plain_errors():
        app()


if __name__ == "__main__":
    main()
