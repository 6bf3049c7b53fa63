"""A sweep on disk: what was planned before its first job, and what became of each job."""

import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, NonNegativeInt, PositiveInt

from crescendo.config import MONITORS, Group, checked
from crescendo.errors import UserError, no_directory
from crescendo.runs import read_summary
from crescendo.scaling.candidates import Search
from crescendo.storage import write_whole
from crescendo.sweeps.jobs import DONE, job_status, read_record

FILE = "sweep.yaml"
# Those of Optuna's samplers that take a seed and keep nothing but numbers in study.db.
SAMPLERS = ("TPESampler", "RandomSampler")
PRUNERS = (
    *("MedianPruner", "PercentilePruner", "SuccessiveHalvingPruner", "HyperbandPruner"),
    *("ThresholdPruner", "NopPruner"),
)
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
        n_trials: in all, those before a resume included.
        seed: of the sampler; trial n draws from (seed, n).
        metric: of the validation: each epoch's may end a trial, that of best.ckpt is its value.
        space: overrides, those that are searched and those that are fixed; the sweeper's to fill in.
    """

    n_trials: PositiveInt
    seed: NonNegativeInt
    metric: Literal[MONITORS]  # type: ignore[valid-type]
    direction: Literal["maximize", "minimize"]
    sampler: Sampler
    pruner: Pruner
    space: Annotated[list[str], Field(min_length=1)]

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> "StudySettings":
        """The settings that these values are.

        Raises:
            UserError: names each setting that is wrong.
        """
        return checked(cls, "hydra.sweeper.study", values)


@dataclass(frozen=True)
class Job:
    """A job as its directory tells it.

    Attributes:
        status: finished, pruned, failed, interrupted, running or not started.
        accuracy: of the test, in 0..1; None for a job that is not finished.
        value: of a trial, in its study's metric; None for one that is not done, and outside of a study.
        error: one line of why, for one that failed.
    """

    number: int
    overrides: Sequence[str]
    directory: Path
    status: str
    accuracy: float | None = None
    value: float | None = None
    seconds: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Sweep:
    """A recorded sweep: `command` in `cwd` started it.

    Attributes:
        jobs: the overrides of each job; of a study none, its trials are asked for one after the other.
        study: of sweep=optuna.
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
        return Job(
            number,
            overrides,
            directory,
            status,
            accuracy=metrics.get("test/accuracy"),
            value=metrics.get(self.study.metric) if self.study else None,
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
