"""The jobs of a sweep for a terminal."""

from typing import Any

from rich.console import Group
from rich.table import Table

from crescendo.sweeps.nets import in_figures
from crescendo.sweeps.record import Job, Sweep

MOST_OVERRIDES = 10  # of a job that are shown; the many of a net are in its overrides.yaml


def show_sweep(sweep: Sweep) -> Any:
    """A rich table of the jobs, below the overrides that all of them share."""
    jobs = sweep.all_jobs()
    first = jobs[0].overrides if len(jobs) > 1 else []
    shared = [override for override in first if all(override in job.overrides for job in jobs)]
    if sweep.study:  # what is searched is a job's own, even if all have drawn the same
        shared = [override for override in shared if override in sweep.study.space]
    shown = all(len(job.overrides) - len(shared) <= MOST_OVERRIDES for job in jobs)
    table = Table()
    table.add_column("job", justify="right")
    if shown:
        table.add_column("overrides", overflow="fold")
    table.add_column("status", no_wrap=True)
    for column in _study_columns(sweep):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("test accuracy", justify="right", no_wrap=True)
    table.add_column("seconds", justify="right", no_wrap=True)
    for job in jobs:
        numbers = [_decimals(job.accuracy, 4), _decimals(job.seconds, 1)]
        own = [override for override in job.overrides if override not in shared]
        overrides = [" ".join(own)] if shown else []
        table.add_row(str(job.number), *overrides, job.status, *_study_cells(sweep, job), *numbers)
    heading = _heading(sweep, jobs) + (f"; all with {' '.join(shared)}" if shared else "")
    return Group(heading if shown else f"{heading}; each with <job>/overrides.yaml", table)


def _heading(sweep: Sweep, jobs: list[Job]) -> str:
    count = [job.status for job in jobs].count
    heading = f"{count('finished')} of {sweep.size} jobs finished"
    if count("pruned"):
        heading += f", {count('pruned')} pruned"
    if sweep.study is None:
        return heading
    if sweep.study.front:
        from crescendo.sweeps.study import Study  # needs Optuna

        front = Study(sweep.directory, sweep.study).front()
        return heading + (f"; Pareto front: jobs {', '.join(map(str, front))}" if front else "")
    values = {job.number: job.value for job in jobs if job.status == "finished" and job.value is not None}
    if values:
        best = (max if sweep.study.direction == "maximize" else min)(values, key=values.__getitem__)
        heading += f"; best: job {best}"
    return heading


def _study_columns(sweep: Sweep) -> list[str]:
    if sweep.study is None:
        return []
    return [sweep.study.metric, *sweep.study.costs, *(["value"] if sweep.study.objective else [])]


def _study_cells(sweep: Sweep, job: Job) -> list[str]:
    if sweep.study is None:
        return []
    costs = [in_figures(job.costs[name]) if name in job.costs else "" for name in sweep.study.costs]
    return [_decimals(job.metric, 4), *costs, *([_decimals(job.value, 4)] if sweep.study.objective else [])]


def _decimals(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
