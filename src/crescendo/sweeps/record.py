"""A sweep on disk: what was planned before its first job, and what became of each job."""

import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from crescendo.config import MONITORS, Group, checked
from crescendo.errors import UserError, no_directory
from crescendo.runs import read_summary
from crescendo.scaling.candidates import Search
from crescendo.storage import write_whole
from crescendo.sweeps.jobs import DONE, job_status, read_record
from crescendo.sweeps.objective import CostName, Weighed, known_costs, weighed

FILE = "sweep.yaml"
# Those of Optuna's samplers that take a seed and keep nothing but numbers in study.db.
SAMPLERS = ("TPESampler", "RandomSampler", "NSGAIISampler")
PRUNERS = (
    *("MedianPruner", "PercentilePruner", "SuccessiveHalvingPruner", "HyperbandPruner"),
    *("ThresholdPruner", "NopPruner"),
)
NSGA_POPULATION = 50  # Optuna's own
Argument = bool | int | float | str | None


class Sampler(Group):
    """One of Optuna's, by name, and its arguments."""

    name: Literal[SAMPLERS]  # type: ignore[valid-type]  # the names above
    arguments: dict[str, Argument] = {}


class Pruner(Group):
    """One of Optuna's, by name, and its arguments."""

    name: Literal[PRUNERS]  # type: ignore[valid-type]
    arguments: dict[str, Argument] = {}


class StudySettings(Group):
    """What a study looks for and how: hydra.sweeper.study.

    Attributes:
        n_trials: in all, those before a resume included; without those that max_macs refused.
        seed: of the sampler; trial n draws from (seed, n).
        metric: of the validation: each epoch's may end a trial, that of best.ckpt is its value.
        direction: of the metric.
        objective: costs that the metric is weighed by; none: the metric is the value.
        front: costs beside the metric, each to be small: a Pareto front in place of one value.
        max_macs: nets with more, at the resolution of evaluation, are not trained: another is drawn.
        space: overrides, those that are searched and those that are fixed; the sweeper's to fill in.
    """

    n_trials: PositiveInt
    seed: NonNegativeInt
    metric: Literal[MONITORS]  # type: ignore[valid-type]
    direction: Literal["maximize", "minimize"]
    objective: dict[CostName, Weighed] = {}
    front: list[CostName] = []
    max_macs: PositiveFloat | None = None
    sampler: Sampler
    pruner: Pruner
    space: Annotated[list[str], Field(min_length=1)]

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> "StudySettings":
        """The settings that these values are.

        Raises:
            UserError: names each setting that is wrong.
        """
        settings = checked(cls, "hydra.sweeper.study", values)
        settings._refuse_what_does_not_go_together()
        return settings

    @property
    def costs(self) -> list[str]:
        """The costs that count, by their names in summary.json."""
        return [*self.objective, *self.front]

    def value(self, metric: float, summary: Mapping[str, Any]) -> float | None:
        """What a trial with this metric is worth; None where its costs are not known.

        Of a front, the metric.
        """
        costs = known_costs(summary, list(self.objective))
        return None if costs is None else weighed(metric, costs, self.objective)

    def values(self, summary: Mapping[str, Any]) -> list[float] | None:
        """What a finished trial is told to the study with: one value, or one for each axis of a front."""
        metric, front = summary["metrics"].get(self.metric), known_costs(summary, self.front)
        value = None if metric is None else self.value(metric, summary)
        return None if value is None or front is None else [value, *front.values()]

    def _refuse_what_does_not_go_together(self) -> None:
        """Raises UserError."""
        name, study = self.sampler.name, "hydra.sweeper.study"
        if self.objective and self.front:
            raise UserError(
                f"{study}.objective has {', '.join(self.objective)} and {study}.front "
                f"{', '.join(self.front)}: a front weighs nothing. Leave one of them out: {study}.front=[]."
            )
        if len(set(self.front)) < len(self.front):
            raise UserError(f"{study}.front={','.join(self.front)}: each cost once.")
        if self.objective and (self.direction != "maximize" or self.metric == "val/loss"):
            raise UserError(
                f"{study}.objective weighs an accuracy that is to be large: {study}.metric=val/accuracy "
                f"{study}.direction=maximize, not {self.metric} and {self.direction}."
            )
        if self.front and self.pruner.name != "NopPruner":
            raise UserError(
                f"{study}.pruner.name={self.pruner.name}: Optuna prunes studies with one objective alone, "
                f"and {study}.front={','.join(self.front)} makes {1 + len(self.front)}. Give "
                f"{study}.pruner.name=NopPruner."
            )
        population = self.sampler.arguments.get("population_size", NSGA_POPULATION)
        if name == "NSGAIISampler" and isinstance(population, int) and population >= self.n_trials:
            raise UserError(
                f"{study}.sampler.name={name} draws its first population of {population} at random: "
                f"{study}.n_trials={self.n_trials} have no second. Give more, or a smaller "
                f"+{study}.sampler.arguments.population_size."
            )


@dataclass(frozen=True)
class Job:
    """A job as its directory tells it.

    Attributes:
        status: finished, pruned, failed, interrupted, running or not started.
        accuracy: of the test, in 0..1; None for a job that is not finished.
        metric: of a trial, its study's; None for one that is not done, and outside of a study.
        costs: of a trial, those that its study counts and that are known.
        value: of a trial: its metric weighed by its costs; None where these are not known.
        error: one line of why, for one that failed.
    """

    number: int
    overrides: Sequence[str]
    directory: Path
    status: str
    accuracy: float | None = None
    metric: float | None = None
    costs: Mapping[str, float] = field(default_factory=dict)
    value: float | None = None
    seconds: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Sweep:
    """A recorded sweep: `command` in `cwd` started it.

    Attributes:
        jobs: the overrides of each job; of a study none, its trials are asked for one after the other.
        study: of sweep=optuna and of sweep=architecture_search.
        search: of sweep=compound_coefficients; job n trains its candidate n modulo their number.
    """

    directory: Path
    command: Sequence[str]
    cwd: str
    jobs: Sequence[Sequence[str]]
    study: StudySettings | None = None
    search: Search | None = None

    @classmethod
    def record(
        cls,
        directory: Path,
        jobs: Sequence[Sequence[str]],
        study: StudySettings | None = None,
        search: Search | None = None,
    ) -> "Sweep":
        """Write down the sweep that this process is about to run.

        Raises:
            UserError: the directory holds a sweep already, or cannot be made.
        """
        file = directory / FILE
        if file.exists():
            raise UserError(
                f"{directory} holds a sweep already: crescendo sweep resume {directory} runs what is missing."
            )
        command = [sys.executable, os.path.abspath(sys.argv[0]), *sys.argv[1:]]
        sweep = cls(directory, command, os.getcwd(), [list(job) for job in jobs], study, search)
        content: dict[str, Any] = {"command": sweep.command, "cwd": sweep.cwd, "jobs": sweep.jobs}
        if study is not None:
            content |= {"study": study.model_dump()}
        if search is not None:
            content |= {"search": search.model_dump()}
        try:
            directory.mkdir(parents=True, exist_ok=True)
            write_whole(file, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
        except OSError as error:
            raise UserError(
                f"the sweep directory {directory} cannot be made: {error.strerror}. Set runs_dir=<directory>."
            ) from error
        return sweep

    @classmethod
    def read(cls, directory: Path) -> "Sweep":
        """The sweep that a directory records.

        Raises:
            UserError: it is not there, records none, or its sweep.yaml cannot be read.
        """
        if not directory.is_dir():
            raise no_directory(directory)
        file = directory / FILE
        if not file.is_file():
            inside = [str(path.parent) for path in sorted(directory.rglob(FILE))[:3]]
            hint = f" Sweeps below it: {', '.join(inside)}." if inside else ""
            raise UserError(f"{directory} is not a sweep directory: it has no {FILE}.{hint}")
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
            command, cwd, jobs = (content[key] for key in ("command", "cwd", "jobs"))
        except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
            raise UserError(f"{file} cannot be read: {error}") from error
        study, search = content.get("study"), content.get("search")
        if not (
            isinstance(cwd, str)
            and _is_list_of_strings(command)
            and len(command) > 1
            and isinstance(jobs, list)
            and all(map(_is_list_of_strings, jobs))
            and (isinstance(study, dict) if not jobs else study is None)
            and isinstance(search, dict | None)
        ):
            raise UserError(f"{file} is not the record of a crescendo sweep.")
        return cls(
            directory,
            command,
            cwd,
            jobs,
            StudySettings.checked(study) if study else None,
            checked(Search, f"{file}: search", search) if search else None,
        )

    @property
    def size(self) -> int:
        """How many jobs there will be."""
        return len(self.jobs) if self.study is None else self.study.n_trials

    def known_jobs(self) -> dict[int, Sequence[str]]:
        """The overrides of each job that is known by now, by number."""
        if self.study is None:
            return dict(enumerate(self.jobs))
        from crescendo.sweeps.study import Study  # needs Optuna

        return Study(self.directory, self.study).known_jobs()

    def job(self, number: int, overrides: Sequence[str]) -> Job:
        """What is known of a job now."""
        directory = self.directory / str(number)
        status = job_status(directory)
        if status == "running":
            return Job(number, overrides, directory, status)
        record, summary = read_record(directory) or {}, read_summary(directory)
        metrics = summary["metrics"] if status in DONE else {}
        study = self.study
        metric = metrics.get(study.metric) if study else None
        costs = {name: summary[name] for name in study.costs if summary.get(name)} if study else {}
        return Job(
            number,
            overrides,
            directory,
            status,
            accuracy=metrics.get("test/accuracy"),
            metric=metric,
            costs=costs,
            value=study.value(metric, summary) if study and metric is not None else None,
            seconds=record.get("seconds") or summary.get("seconds"),
            error=record.get("error") or summary.get("error"),
        )

    def all_jobs(self) -> list[Job]:
        """What is known of every job now, by number."""
        return [self.job(number, overrides) for number, overrides in self.known_jobs().items()]

    def to_run(self) -> dict[int, Sequence[str]]:
        """The jobs to run now, with their overrides. A trial that failed is a result, and not tried again."""
        left_alone = (*DONE, "running") if self.study is None else (*DONE, "running", "failed")
        return {job.number: job.overrides for job in self.all_jobs() if job.status not in left_alone}

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Say at the end, also at an early one, which jobs are not finished.

        Raises:
            UserError: there are any, and no other error is under way.
        """
        try:
            yield
        except BaseException:
            message = self.unfinished()
            if message:
                print(message, file=sys.stderr)
            raise
        message = self.unfinished()
        if message:
            raise UserError(message)

    def unfinished(self) -> str | None:
        """The jobs that are not done, with their overrides, directories and errors; None if all are."""
        known = self.all_jobs()
        jobs = [job for job in known if job.status not in DONE]
        to_come = self.size - len(known)
        if not jobs and not to_come:
            return None
        lines = [f"{len(jobs) + to_come} of {self.size} jobs are not finished."]
        for job in jobs:
            lines += [
                f"  job {job.number} {job.status}: {' '.join(job.overrides)}",
                f"    in {job.directory}" + (f": {job.error}" if job.error else ""),
            ]
        if to_come:
            lines.append(f"  {to_come} trials are still to come")
        if to_come or self.study is None or any(job.status != "failed" for job in jobs):
            resume = f"crescendo sweep resume {shlex.quote(str(self.directory))}"
            lines.append(f"To run what is missing: {resume}")
        return "\n".join(lines)


def jobs_without_run(places: Iterable[Path]) -> list[str]:
    """ "<status> <directory>" of the jobs that never became a run, of every sweep in or below `places`."""
    found = []
    for directory in sorted({file.parent.resolve() for place in places for file in place.rglob(FILE)}):
        sweep = Sweep.read(directory)
        if sweep.study is None:
            jobs = [directory / str(number) for number in range(len(sweep.jobs))]
        else:
            jobs = sorted(path for path in directory.iterdir() if path.name.isdigit())
        missing = [job for job in jobs if not (job / "config.yaml").exists()]
        found += [f"{job_status(job)} {job}" for job in missing]
    return found


def _is_list_of_strings(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
