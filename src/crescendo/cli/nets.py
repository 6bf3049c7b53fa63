"""Verbs about nets, and about a training before it starts."""

import fnmatch
import json
import logging
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from crescendo.cli.options import AsJson, Picture, write_picture
from crescendo.errors import UserError


class Order(StrEnum):
    """What the nets can be sorted by: the fields of a catalogue's row."""

    NAME = "name"
    FAMILY = "family"
    YEAR = "year"
    PARAMETERS = "parameters"
    MACS = "macs"
    RESOLUTION = "resolution"
    MIN_RESOLUTION = "min_resolution"


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


def scale(
    net: Annotated[str, typer.Argument(metavar="NET", help="A name that crescendo models shows.")],
    max_macs: Annotated[str | None, typer.Option(help="Of one image: 600M, 1.5G.")] = None,
    max_memory: Annotated[str | None, typer.Option(help="Of a training step: 8GB, 7.5GiB.")] = None,
    max_params: Annotated[str | None, typer.Option(help="Parameters: 10M.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a step.")] = 32,
    optimizer: Annotated[str, typer.Option(help="An option of that group: its state takes memory.")] = "sgd",
    alpha: Annotated[float, typer.Option(help="Depth at phi=1; the paper's if not given.")] = 1.2,
    beta: Annotated[float, typer.Option(help="Width at phi=1; the paper's if not given.")] = 1.1,
    gamma: Annotated[float, typer.Option(help="Resolution at phi=1; the paper's if not given.")] = 1.15,
    resolution: Annotated[
        int | None, typer.Option(min=1, help="Px at phi=0; the paper's if not given.")
    ] = None,
    num_classes: Annotated[int | None, typer.Option(min=1, help="The paper's if not given.")] = None,
    in_channels: Annotated[int | None, typer.Option(min=1, help="The paper's if not given.")] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Train two steps, and measure their peak.")
    ] = False,
    as_json: AsJson = False,
    config_dir: Annotated[Path | None, typer.Option(help="The project's conf, outside of it.")] = None,
) -> None:
    """Scale a net as far as a budget allows: the largest phi of compound scaling, and how to train it."""
    limits = {"--max-macs": max_macs, "--max-memory": max_memory, "--max-params": max_params}
    if not any(limits.values()):
        raise UserError("there is no limit: give --max-macs 1G, --max-memory 8GB or --max-params 10M.")
    from crescendo.composing import compose_config, find_config_directory

    config = compose_config([f"optimizer={optimizer}"], find_config_directory(config_dir))
    from rich import get_console

    from crescendo.models.registry import find_entry
    from crescendo.scaling import budgets, report
    from crescendo.scaling.coefficients import Coefficients
    from crescendo.scaling.nets import scale as scale_net
    from crescendo.targets import build_partial

    coefficients = Coefficients(alpha, beta, gamma)
    coefficients.check_product()
    entry = find_entry(net)
    training = budgets.Training(
        build_partial(config.optimizer, "optimizer"),
        batch_size,
        num_classes or entry.num_classes,
        in_channels or entry.in_channels,
    )
    units = (budgets.COUNTS, budgets.BYTES, budgets.COUNTS)
    allowed = [
        budgets.parse_quantity(option, text, unit) if text is not None else None
        for (option, text), unit in zip(limits.items(), units, strict=True)
    ]
    fit = budgets.largest_phi(net, coefficients, budgets.Limits(*allowed), training, resolution=resolution)
    measured = budgets.measured_memory(fit.net, training) if measure else None
    base = scale_net(net, coefficients, 0, resolution=resolution).resolution
    command = report.train_command(fit, coefficients, base, training, optimizer)
    published = report.published_efficientnets(coefficients) if net == "efficientnet_b0" else []
    if as_json:
        print(json.dumps(report.fit_as_json(fit, command, measured, published), indent=2))
        return
    console = get_console()
    console.print(report.show_fit(fit, training, measured))
    print(command)  # on one line, to be pasted
    if published:
        console.print(report.show_published(published))


def preview(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[OVERRIDES...]", help="As for python train.py.")
    ] = None,
    out: Picture = Path("preview.png"),
    images: Annotated[int, typer.Option(min=1, help="Images of the batch to show.")] = 8,
    config_dir: Annotated[Path | None, typer.Option(help="The project's conf, outside of it.")] = None,
) -> None:
    """Draw a training before it starts: its schedule, and a batch as the net sees it at each stage."""
    from crescendo.composing import compose_config, find_config_directory

    config = compose_config(overrides or [], find_config_directory(config_dir))
    from crescendo.planning import preview_training

    write_picture(preview_training(config, overrides or [], images), out)


def bench(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[OVERRIDES...]", help="As for python train.py.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps to time, twice each time.")] = 10,
    rounds: Annotated[int, typer.Option(min=1, help="In which each setting is tried.")] = 3,
    lever: Annotated[
        list[str] | None, typer.Option(help="A setting to try, such as compile=true; again for another.")
    ] = None,
    levers: Annotated[bool, typer.Option(help="Try settings; some that suit if none is named.")] = True,
    as_json: AsJson = False,
    config_dir: Annotated[Path | None, typer.Option(help="The project's conf, outside of it.")] = None,
) -> None:
    """Time a training's step part by part, and the settings that may make it shorter on this machine."""
    from crescendo.composing import compose_config, find_config_directory

    directory, typed = find_config_directory(config_dir), overrides or []
    compose_config(typed, directory)  # a mistake is told before the seconds of import
    from rich import get_console

    from crescendo.analysis.step_times import advice_on_loading, show_levers, show_step_times
    from crescendo.bench import bench_training

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    result = bench_training(
        lambda settings: compose_config(settings, directory),
        typed,
        steps=steps,
        rounds=rounds,
        levers=lever if levers else [],
    )
    if as_json:
        print(json.dumps(asdict(result), indent=2))
        return
    console = get_console()
    title = f"{result.net} at {result.resolution} px, {result.times.images} images a step"
    console.print(
        show_step_times(title, result.times, result.operations, result.peak, result.precision, result.device)
    )
    loading = advice_on_loading(result.times)
    if loading:
        console.print(loading)
    if result.levers:
        console.print(show_levers(result.levers))
