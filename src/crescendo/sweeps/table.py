"""The jobs of a sweep for a terminal."""

from typing import Any

from rich.console import Group
from rich.table import Table

from crescendo.sweeps.record import Job, Sweep


def show_sweep(sweep: Sweep) -> Any:
    """A rich table of the jobs, below the overrides that all of them share."""
    jobs = sweep.all_jobs()
    first = jobs[0].overrides if len(jobs) > 1 else []
    shared = [override for override in first if all(override in job.overrides for job in jobs)]
    table = Table()
    table.add_column("job", justify="right")
    table.add_column("overrides", overflow="fold")
    table.add_column("status", no_wrap=True)
    if sweep.study:
        table.add_column(sweep.study.metric, justify="right", no_wrap=True)
    table.add_column("test accuracy", justify="right", no_wrap=True)
    table.add_column("seconds", justify="right", no_wrap=True)
    for job in jobs:
        numbers = [_decimals(job.accuracy, 4), _decimals(job.seconds, 1)]
        table.add_row(
            str(job.number),
            " ".join(override for override in job.overrides if override not in shared),
            job.status,
            *([_decimals(job.value, 4)] if sweep.study else []),
            *numbers,
        )
    return Group(_heading(sweep, jobs) + (f"; all with {' '.join(shared)}" if shared else ""), table)


def _heading(sweep: Sweep, jobs: list[Job]) -> str:
    count = [job.status for job in jobs].count
    heading = f"{count('finished')} of {sweep.size} jobs finished"
    if count("pruned"):
        heading += f", {count('pruned')} pruned"
    if sweep.study:
        values = {job.number: job.value for job in jobs if job.status == "finished" and job.value is not None}
        if values:
            best = (max if sweep.study.direction == "maximize" else min)(values, key=values.__getitem__)
            heading += f"; best: job {best}"
    return heading


def _decimals(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
