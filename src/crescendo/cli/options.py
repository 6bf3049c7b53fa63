"""Arguments and options that several verbs take."""

from pathlib import Path
from typing import Annotated

import typer

RunDirectory = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Trust = Annotated[bool, typer.Option("--trust", help="Build what the run names from any package.")]
Device = Annotated[str, typer.Option(help="auto, cpu, gpu or another Lightning accelerator.")]
