"""`crescendo <verb>`: everything that is not training. Each verb works from any directory."""

import fnmatch
import json
from dataclasses import asdict
from enum import StrEnum
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

sweep = typer.Typer(no_args_is_help=True, help="Look at a sweep, or go on with it.")
app.add_typer(sweep, name="sweep")

SweepDirectory = Annotated[Path, typer.Argument(metavar="DIR", help="A sweep directory.")]
RunDirectory = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Trust = Annotated[bool, typer.Option("--trust", help="Build what the run names from any package.")]
Device = Annotated[str, typer.Option(help="auto, cpu, gpu or another Lightning accelerator.")]


class Order(StrEnum):
    """What the nets can be sorted by: the fields of a catalogue's row."""

    NAME = "name"
    FAMILY = "family"
    YEAR = "year"
    PARAMETERS = "parameters"
    MACS = "macs"
    RESOLUTION = "resolution"
    MIN_RESOLUTION = "min_resolution"


@app.command()
def models(
    pattern: Annotated[str, typer.Argument(help='A shell pattern, such as "resnet*".')] = "*",
    sort: Annotated[Order, typer.Option(help="The column to sort by, upwards.")] = Order.YEAR,
    family: Annotated[str | None, typer.Option(help="Only this family.")] = None,
    since: Annotated[int | None, typer.Option(help="Only from this year on.")] = None,
    until: Annotated[int | None, typer.Option(help="Only up to this year.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the nets that model=<name> can choose, and what they cost."""
    from rich import get_console

    from crescendo.analysis.catalogue import make_catalogue, show_catalogue
    from crescendo.errors import did_you_mean
    from crescendo.models import list_models

    names = list_models(pattern, family=family, since=since, until=until)
    if not names:
        others = list_models()
        if not fnmatch.filter(others, pattern):
            raise UserError(
                f"no net is called {pattern!r}.{did_you_mean(pattern, others)} There are {', '.join(others)}."
            )
        raise UserError(f"no net called {pattern!r} is of that family and those years.")
    rows = make_catalogue(names, sort)
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        get_console().print(show_catalogue(rows))


@app.command()
def profile(
    net: Annotated[str, typer.Argument(metavar="NET", help="A name that crescendo models shows.")],
    resolution: Annotated[int | None, typer.Option(min=1, help="In px; the paper's if not given.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a step.")] = 8,
    num_classes: Annotated[int | None, typer.Option(min=1, help="The paper's if not given.")] = None,
    in_channels: Annotated[int | None, typer.Option(min=1, help="The paper's if not given.")] = None,
    steps: Annotated[int, typer.Option(min=0, help="Steps to time; 0 measures nothing.")] = 5,
) -> None:
    """Show a net's cost part by part, and measure its speed on this machine."""
    from rich import get_console

    from crescendo.analysis.costs import check_resolution
    from crescendo.analysis.profile import measure_speed, profile_net, show_profile, show_speed
    from crescendo.models.registry import create_model, find_entry

    entry = find_entry(net)
    num_classes, in_channels = num_classes or entry.num_classes, in_channels or entry.in_channels
    built = create_model(net, num_classes, in_channels)
    resolution = resolution or built.resolution or built.min_resolution
    reason = check_resolution(built, resolution)
    if reason is not None:
        raise UserError(f"{reason}, not {resolution}")
    part = profile_net(built, resolution, batch_size, in_channels)
    get_console().print(show_profile(part, resolution, batch_size, in_channels))
    if steps:
        speed = measure_speed(
            built, resolution, batch_size, num_classes=num_classes, in_channels=in_channels, steps=steps
        )
        get_console().print(show_speed(speed, batch_size, steps))


@app.command()
def preview(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[OVERRIDES...]", help="As for python train.py.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The picture: png, pdf or svg.")] = Path("preview.png"),
    images: Annotated[int, typer.Option(min=1, help="Images of the batch to show.")] = 8,
    config_dir: Annotated[Path | None, typer.Option(help="The project's conf, outside of it.")] = None,
) -> None:
    """Draw a training before it starts: its schedule, and a batch as the net sees it at each stage."""
    from crescendo.composing import compose_config, find_config_directory

    config = compose_config(overrides or [], find_config_directory(config_dir))
    from crescendo.planning import preview_training

    figure = preview_training(config, overrides or [], images)
    try:
        figure.savefig(out, dpi=150, facecolor="white")
    except (OSError, ValueError) as error:
        raise UserError(f"--out {out} cannot be written: {error}") from error
    print(out)


@app.command()
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


@app.command()
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


@app.command()
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


@sweep.command()
def status(directory: SweepDirectory) -> None:
    """Show the jobs of a sweep: overrides, status, test accuracy, seconds; of a study, each trial's value."""
    from rich import get_console

    from crescendo.sweeps.record import Sweep
    from crescendo.sweeps.table import show_sweep

    get_console().print(show_sweep(Sweep.read(directory)))


@sweep.command()
def resume(directory: SweepDirectory) -> None:
    """Run the jobs of a sweep that are missing, failed or interrupted."""
    from crescendo.sweeps.record import Sweep
    from crescendo.sweeps.resuming import resume_sweep

    resume_sweep(Sweep.read(directory))


def main() -> None:
    """The entry point: a user's mistake ends with one message and exit code 2."""
    with plain_errors():
        app()


if __name__ == "__main__":
    main()
