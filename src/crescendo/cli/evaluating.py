"""`crescendo evaluate`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from crescendo.cli.options import AsJson, Device, RunDirectory, Trust
from crescendo.errors import UserError


def evaluate(
    run: RunDirectory,
    data: Annotated[
        list[str] | None,
        typer.Option(help="Of the data: root=<directory>, num_workers=4, data=<option>; again for another."),
    ] = None,
    resolutions: Annotated[str | None, typer.Option(help="Test at these, too: 128,160,192,224 (px).")] = None,
    tta: Annotated[bool, typer.Option("--tta", help="Average over mirrored and shifted views, too.")] = False,
    corruptions: Annotated[
        bool, typer.Option("--corruptions", help="Test under noise, blur, jpeg ... at five severities, too.")
    ] = False,
    against: Annotated[
        Path | None, typer.Option(help="Another run, on the same images: McNemar's exact test.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="A picture to write: the reliability diagram.")] = None,
    as_json: AsJson = False,
    accelerator: Device = "auto",
    trust: Trust = False,
) -> None:
    """Test a run's best checkpoint on its test images again, with 95% intervals."""
    pixels = _pixels(resolutions)
    from rich import get_console

    from crescendo.analysis.score_tables import draw_evaluation
    from crescendo.scoring import evaluate_run

    evaluation = evaluate_run(
        run,
        accelerator,
        trust=trust,
        data=data or (),
        resolutions=pixels,
        averaged=tta,
        corrupted=corruptions,
        other=against,
    )
    if plot is not None:
        figure = draw_evaluation(evaluation, "/".join(run.absolute().parts[-2:]))
        try:
            figure.savefig(plot, dpi=120)
        except (OSError, ValueError) as error:
            raise UserError(f"--plot {plot} cannot be written: {error}") from error
    if as_json:
        print(json.dumps(evaluation.as_json(), indent=2))
    else:
        get_console().print(evaluation.show())


def _pixels(given: str | None) -> list[int]:
    parts = given.split(",") if given else []
    if not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise UserError(f"--resolutions {given}: give whole pixels between commas, such as 128,160,192.")
    return sorted({int(part) for part in parts})
