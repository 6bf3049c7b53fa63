"""`crescendo compare`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from crescendo.cli.options import Trust


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUNS...", help="Run directories, sweeps, directories of runs, patterns."),
    ],
    html: Annotated[Path | None, typer.Option(help="A page to write: curves, frontiers, mistakes.")] = None,
    table: Annotated[
        Path | None, typer.Option("--csv", help="A file to write: a row for each finished run.")
    ] = None,
    markdown: Annotated[Path | None, typer.Option(help="A file to write: the table.")] = None,
    reference: Annotated[
        Literal["auto", "fixed", "best", "first"],
        typer.Option(help="The group to hold the others against; fixed: the best at one resolution."),
    ] = "auto",
    test: Annotated[
        Literal["t", "wilcoxon"], typer.Option(help="Of the differences over paired seeds.")
    ] = "t",
    trust: Trust = False,
) -> None:
    """Compare runs: mean and interval over seeds, differences and their tests, cost, time."""
    from rich import get_console

    from crescendo.analysis.comparison import Reference, hold_against
    from crescendo.analysis.comparison import compare as compare_runs
    from crescendo.analysis.comparison_table import ComparisonTable, write_markdown, write_runs
    from crescendo.analysis.uncertainty import PairedTest
    from crescendo.runs import find_runs, matching
    from crescendo.sweeps.record import jobs_without_run

    rows = compare_runs(find_runs(runs))
    missing = jobs_without_run([match for place in runs for match in matching(place)])
    comparison = hold_against(rows, Reference(reference), PairedTest(test), missing)
    get_console().print(ComparisonTable(comparison))
    if table is not None:
        write_runs(rows, table)
    if markdown is not None:
        write_markdown(comparison, markdown)
    if html is not None:
        from crescendo.report.page import write_page

        size = write_page(comparison, html, title=", ".join(run.name for run in runs), trust=trust)
        get_console().print(f"{html}: {size / 1e6:.1f} MB")
