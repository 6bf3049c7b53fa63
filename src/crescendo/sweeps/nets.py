"""What a search found: the net of a trial as <directory>/model/<name>.yaml, which model=<name> takes."""

import csv
import io
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from crescendo.errors import UserError
from crescendo.runs import read_config, read_summary
from crescendo.storage import write_whole
from crescendo.sweeps.record import Job, Sweep

FOLLOWS = {"num_classes": "${data.num_classes}", "in_channels": "${data.in_channels}"}
FIRST, HUNDREDTHS = 10, 100  # the least factor of the widths that is tried, in hundredths
WIDTH_STEP = 8  # what widths are multiples of


def best_job(sweep: Sweep, trial: int | None = None) -> Job:
    """The trial of a study that is worth most, or the one that is asked for.

    Raises:
        UserError: the sweep is no study, a front has no best, or no such trial finished.
    """
    if sweep.study is None:
        raise UserError(f"{sweep.directory} is no search: its jobs have no best.")
    finished = {job.number: job for job in sweep.all_jobs() if job.status == "finished"}
    if trial is not None:
        if trial not in finished:
            known = ", ".join(map(str, finished)) or "none"
            raise UserError(
                f"--trial {trial}: {sweep.directory} has no such finished trial; finished: {known}."
            )
        return finished[trial]
    if sweep.study.front:
        raise UserError(
            f"{sweep.directory} is a search for a front, which has no best: give --trial; front.csv has them."
        )
    worth = {number: job.value for number, job in finished.items() if job.value is not None}
    if not worth:
        raise UserError(f"{sweep.directory} has no finished trial yet.")
    return finished[(max if sweep.study.direction == "maximize" else min)(worth, key=worth.__getitem__)]


def write_net(sweep: Sweep, job: Job, place: Path, name: str, macs: int | None = None) -> str:
    """Write the net of a trial to <place>/model/<name>.yaml; the options that train.py takes it by.

    Args:
        macs: make its widths as large as this many multiply-accumulates allow, and not larger.

    Raises:
        UserError: there is another such file, or the net has no rows to widen.
    """
    from crescendo.experiment import plain_values  # with torch

    config, summary = read_config(job.directory), read_summary(job.directory)
    model = plain_values(config.model)
    assert sweep.study is not None
    told = f"{sweep.study.metric} {job.metric:.4f}" if job.metric is not None else "not validated"
    comment = f"Trial {job.number} of {sweep.directory.resolve().name}: {told}; {summary['parameters']:,} "
    comment += f"parameters and {summary['macs']:,} MACs at {_pixels(config)} px, as it was searched."
    if macs is not None:
        model, factor, now = widened(config, macs)
        comment += f"\n# Its widths times {factor:g}, single ones a step further where that fits: "
        comment += f"{now:,} MACs, of {macs:,} that were allowed."
    text = f"# {comment}\n" + "".join(_lines(key, value) for key, value in (model | FOLLOWS).items())
    path = place / "model" / f"{name}.yaml"
    own = place.resolve() == sweep.directory.resolve() and macs is None  # the search's, which may go on
    if path.exists() and path.read_text(encoding="utf-8") != text and not own:
        raise UserError(f"{path} is there already, and another net: give another --name.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.") from error
    return f"--config-dir {shlex.quote(str(place))} model={name}"


def widened(config: Any, macs: int) -> tuple[dict[str, Any], float, int]:
    """A run's model with its widths times a factor, that factor, and the MACs it has then.

    The largest factor, in hundredths, with which the net has at most `macs` at the run's resolution of
    evaluation. Widths are rounded as EfficientNet rounds them, to multiples of 8, so that several step
    at one factor: what this leaves over takes single widths one step further, the widest first.

    Raises:
        UserError: the model has no rows, or more MACs at any factor.
    """
    from omegaconf import OmegaConf

    from crescendo.curriculum.budget import largest
    from crescendo.experiment import count_configured_macs, plain_values
    from crescendo.models.layers import scaled_width

    model = plain_values(config.model)
    if not {"stages", "stem", "last"} <= set(model):
        raise UserError(f"--macs: {model['_target_']} has no rows (stages, stem, last) to widen.")
    widths = [model["stem"], *(row["width"] for row in model["stages"]), model["last"]]

    def with_widths(stem: int, *stages: int, last: int) -> dict[str, Any]:
        rows = [row | {"width": width} for row, width in zip(model["stages"], stages, strict=True)]
        return model | {"stem": stem, "last": last, "stages": rows}

    def times(hundredths: int) -> list[int]:
        return [scaled_width(width, hundredths / HUNDREDTHS) for width in widths]

    def macs_of(widths: Sequence[int]) -> int:
        changed = config.copy()
        changed.model = OmegaConf.create(with_widths(*widths[:-1], last=widths[-1]))
        return count_configured_macs(changed)

    best = largest(lambda hundredths: macs_of(times(hundredths)) <= macs, FIRST, HUNDREDTHS - FIRST)
    if best is None:
        raise UserError(f"--macs {macs}: the net has {macs_of(times(FIRST)):,} with a tenth of its widths.")
    wider = times(best)
    for place in sorted(range(len(wider)), key=lambda place: -wider[place]):
        further = [width + WIDTH_STEP * (other == place) for other, width in enumerate(wider)]
        if macs_of(further) <= macs:
            wider = further
    return with_widths(*wider[:-1], last=wider[-1]), best / HUNDREDTHS, macs_of(wider)


def conclude(sweep: Sweep, front: Sequence[int]) -> str:
    """Write what a search found, and say so: the best net or each net of the front, front.csv.

    A search over other settings than the net's has no yaml; one without a finished trial says nothing.
    """
    study = sweep.study
    assert study is not None
    jobs = sweep.all_jobs()
    if study.front:
        chosen = sorted((job for job in jobs if job.number in front), key=lambda job: -(job.metric or 0.0))
    else:
        chosen = [best_job(sweep)] if any(job.status == "finished" for job in jobs) else []
    if not chosen:
        return ""
    lines = [_told(study.metric, job) for job in chosen]
    if study.front:
        _write_front(sweep, chosen)
        lines = [f"Pareto front, {sweep.directory / 'front.csv'}:", *(f"  {line}" for line in lines)]
    else:
        lines[0] = f"best: {lines[0]}"
    if any(override.startswith("model.") for override in study.space):
        names = [f"trial{job.number}" if study.front else "best" for job in chosen]
        taken = [
            write_net(sweep, job, sweep.directory, name) for job, name in zip(chosen, names, strict=True)
        ]
        lines.append(f"To train {'one of them' if study.front else 'it'}: python train.py {taken[0]}")
    return "\n".join(lines)


def _told(metric: str, job: Job) -> str:
    costs = "".join(f", {name} {in_figures(cost)}" for name, cost in job.costs.items())
    value = f", value {job.value:.4f}" if job.value is not None and job.value != job.metric else ""
    return f"job {job.number}, {metric} {job.metric or 0.0:.4f}{costs}{value}"


def in_figures(cost: float) -> str:
    """A count in full, seconds to four figures."""
    return f"{cost:,.0f}" if cost >= 100 else f"{cost:.4g}"


def _write_front(sweep: Sweep, jobs: Sequence[Job]) -> None:
    assert sweep.study is not None
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["job", sweep.study.metric, *sweep.study.front])
    rows.writerows([job.number, job.metric, *(job.costs[name] for name in sweep.study.front)] for job in jobs)
    write_whole(sweep.directory / "front.csv", text.getvalue())


def _lines(key: str, value: object) -> str:
    """A setting of a yaml; a row of a table on a line."""
    if isinstance(value, list) and value and all(isinstance(row, Mapping) for row in value):
        rows = "".join(
            f"  - {yaml.safe_dump(row, default_flow_style=True, sort_keys=False, width=1000)}"
            for row in value
        )
        return f"{key}:\n{rows}"
    return yaml.safe_dump({key: value}, sort_keys=False, width=1000)


def _pixels(config: Any) -> int:
    """The resolution of evaluation of a run."""
    from crescendo.analysis.costs import shapes_of
    from crescendo.experiment import build_net, evaluation_resolution

    return evaluation_resolution(config, shapes_of(build_net, config))
