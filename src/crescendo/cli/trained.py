"""Verbs about what a run has learned: what it looks at, and taking it elsewhere."""

from pathlib import Path
from typing import Annotated

import typer

from crescendo.analysis.choices import Format, Method
from crescendo.cli.options import Picture, RunDirectory, Trust, write_picture


def explain(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run directory; a sweep or a pattern: all of its runs.")
    ],
    files: Annotated[list[Path], typer.Argument(metavar="FILES...", help="Image files.")],
    others: Annotated[
        list[Path] | None, typer.Option("--run", help="Another to show beside it; may be repeated.")
    ] = None,
    class_name: Annotated[
        str | None, typer.Option("--class", help="What speaks for this class, not for the run's answer.")
    ] = None,
    stage: Annotated[
        str | None, typer.Option(help="Of the net, from 1, or all; the last if not given.")
    ] = None,
    method: Annotated[
        Method, typer.Option(help="auto: CAM where the net ends in a global average and a linear layer.")
    ] = Method.AUTO,
    out: Picture = Path("explain.png"),
    trust: Trust = False,
) -> None:
    """Draw what a run's net looks at: class activation maps over image files."""
    from crescendo.explanation import explain_files

    figure = explain_files(
        [run, *(others or [])],
        files,
        class_name=class_name,
        stage=stage,
        method=method,
        trust=trust,
    )
    write_picture(figure, out)


def export(
    run: RunDirectory,
    form: Annotated[
        Format, typer.Option("--format", help="ONNX, torch.export's .pt2, or the weights alone.")
    ] = Format.ONNX,
    out: Annotated[
        Path | None, typer.Option(help="The file; ./<net>.onnx, .pt2 or .safetensors if not given.")
    ] = None,
    resolution: Annotated[
        int | None, typer.Option(min=1, help="In px; the run's own of evaluation if not given.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    trust: Trust = False,
) -> None:
    """Write a run's best checkpoint for use elsewhere, and check what was written against it."""
    from crescendo.exporting import export_run

    print(export_run(run, form, out, resolution=resolution, force=force, trust=trust))
