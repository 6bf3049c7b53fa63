"""A sweep is a directory of runs, and every job of it is a process of its own.

runs/<name>/<date>_<time>_<short id>/
  sweep.yaml         the command, and the overrides of every job, before the first starts
  <number>/          a run; overrides.yaml before it starts, job.json: how its process ended
  <number>.<status>-1/   an earlier attempt of the job, kept when the job ran again
  .locks/<number>    held by a job's process for as long as it lives

A fresh process for each job keeps ranks, ports, W&B's run and the device's memory of one job from the next.
train.py imports this in a sweep: keep it light.
"""

import fcntl
import json
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig

from crescendo.errors import UserError, no_directory
from crescendo.processes import PASSED_ON, Ended, run_process
from crescendo.runs import JOB_DIRECTORY_VARIABLE, RUN_DIRECTORY_VARIABLE, read_summary, write_whole

# What tells a process that it is one of several: a job of a sweep is the first of its own.
RANK_VARIABLES = (
    *("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "ROLE_RANK"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE"),
    *("MASTER_ADDR", "MASTER_PORT", RUN_DIRECTORY_VARIABLE),
)
# Hydra's settings that are the sweep's, not the job's.
SWEEP_ONLY = ("hydra.mode", "hydra.run", "hydra.sweep", "hydra.sweeper", "hydra.launcher")


@dataclass(frozen=True)
class Job:
    """A job as its directory tells it.

    Attributes:
        status: finished, failed, interrupted, running or not started.
        accuracy: of the test, in 0..1; None for a job that is not finished.
        error: one line of why, for one that failed.
    """

    number: int
    overrides: Sequence[str]
    directory: Path
    status: str
    accuracy: float | None = None
    seconds: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Sweep:
    """A recorded sweep: `command` in `cwd` started it, `jobs` are the overrides of each job."""

    directory: Path
    command: Sequence[str]
    cwd: str
    jobs: Sequence[Sequence[str]]

    @classmethod
    def record(cls, directory: Path, jobs: Sequence[Sequence[str]]) -> "Sweep":
        """Write down the sweep that this process is about to run.

        Raises:
            UserError: the directory holds a sweep already, or cannot be made.
        """
        file = directory / "sweep.yaml"
        if file.exists():
            raise UserError(
                f"{directory} holds a sweep already: crescendo sweep resume {directory} runs what is missing."
            )
        sweep = cls(
            directory,
            [sys.executable, os.path.abspath(sys.argv[0]), *sys.argv[1:]],
            os.getcwd(),
            [list(job) for job in jobs],
        )
        try:
            directory.mkdir(parents=True, exist_ok=True)
            content = {"command": sweep.command, "cwd": sweep.cwd, "jobs": sweep.jobs}
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
        file = directory / "sweep.yaml"
        if not file.is_file():
            inside = [str(path.parent) for path in sorted(directory.rglob("sweep.yaml"))[:3]]
            hint = f" Sweeps below it: {', '.join(inside)}." if inside else ""
            raise UserError(f"{directory} is not a sweep directory: it has no sweep.yaml.{hint}")
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
            command, cwd, jobs = (content[key] for key in ("command", "cwd", "jobs"))
        except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
            raise UserError(f"{file} cannot be read: {error}") from error
        if not (
            isinstance(cwd, str)
            and _is_list_of_strings(command)
            and len(command) > 1
            and isinstance(jobs, list)
            and jobs
            and all(map(_is_list_of_strings, jobs))
        ):
            raise UserError(f"{file} is not the record of a crescendo sweep.")
        return cls(directory, command, cwd, jobs)

    def job(self, number: int) -> Job:
        """What is known of a job now."""
        directory = self.directory / str(number)
        overrides = self.jobs[number]
        if _is_locked(directory):
            return Job(number, overrides, directory, "running")
        status = _status(directory)
        record, summary = _read_record(directory) or {}, read_summary(directory)
        return Job(
            number,
            overrides,
            directory,
            status,
            accuracy=summary["metrics"].get("test/accuracy") if status == "finished" else None,
            seconds=record.get("seconds") or summary.get("seconds"),
            error=record.get("error") or summary.get("error"),
        )

    def all_jobs(self) -> list[Job]:
        """What is known of every job now, by number."""
        return [self.job(number) for number in range(len(self.jobs))]

    def to_run(self) -> list[int]:
        """The numbers of the jobs that are neither finished nor running."""
        return [job.number for job in self.all_jobs() if job.status not in ("finished", "running")]

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
        """The jobs that are not finished, with their overrides, directories and errors; None if all are."""
        jobs = [job for job in self.all_jobs() if job.status != "finished"]
        if not jobs:
            return None
        lines = [
            f"  job {job.number} {job.status}: {' '.join(job.overrides)}\n    in {job.directory}"
            + (f": {job.error}" if job.error else "")
            for job in jobs
        ]
        return "\n".join(
            [
                f"{len(jobs)} of {len(self.jobs)} jobs are not finished.",
                *lines,
                f"To run what is missing: crescendo sweep resume {shlex.quote(str(self.directory))}",
            ]
        )

    def resume(self) -> None:
        """Run the jobs that are not finished with the command of the sweep, in place of this process.

        Raises:
            UserError: the command's script or working directory is gone, or the script is no train.py.
        """
        script, *arguments = self.command[1:]
        directory = self.directory.resolve()
        for path in (script, self.cwd):
            if not Path(path).exists():
                raise UserError(f"{self.directory} was started with {path}, which is not there any more.")
        if Path(script).name != "train.py" or Path(script).resolve().is_relative_to(directory):
            raise UserError(
                f"{self.directory} was started with {script}: refused. Only a project's train.py is run."
            )
        os.chdir(self.cwd)
        os.environ["PWD"] = self.cwd
        resumed = (f"hydra.sweep.dir={quoted(directory)}", "hydra.sweeper.resume=true")
        os.execv(sys.executable, [sys.executable, script, *arguments, *resumed])


def show_sweep(sweep: Sweep) -> Any:
    """The jobs for a terminal: a rich table, below the overrides that all jobs share."""
    from rich.console import Group
    from rich.table import Table

    jobs = sweep.all_jobs()
    shared = [override for override in jobs[0].overrides if all(override in job.overrides for job in jobs)]
    table = Table()
    table.add_column("job", justify="right")
    table.add_column("overrides", overflow="fold")
    table.add_column("status", no_wrap=True)
    table.add_column("test accuracy", justify="right", no_wrap=True)
    table.add_column("seconds", justify="right", no_wrap=True)
    for job in jobs:
        table.add_row(
            str(job.number),
            " ".join(override for override in job.overrides if len(jobs) == 1 or override not in shared),
            job.status,
            "" if job.accuracy is None else f"{job.accuracy:.4f}",
            "" if job.seconds is None else f"{job.seconds:.1f}",
        )
    finished = sum(job.status == "finished" for job in jobs)
    heading = f"{finished} of {len(jobs)} jobs finished"
    return Group(f"{heading}; all with {' '.join(shared)}" if shared and len(jobs) > 1 else heading, table)


def run_job(script: str) -> None:
    """Run one job of a sweep, the one that Hydra is set to, in a process of its own, and record it.

    Nothing is started if another process runs the job, or has finished it.

    Args:
        script: train.py.

    Raises:
        UserError: the job did not finish; the other jobs of the sweep go on.
        KeyboardInterrupt, SystemExit: the sweep was told to stop, and so was the job.
    """
    hydra = HydraConfig.get()
    directory = Path(hydra.runtime.output_dir)
    overrides = list(hydra.overrides.task)
    command = [sys.executable, script, *_config_flags(), *_hydra_overrides(), *overrides, "hydra.mode=RUN"]
    environment = {name: value for name, value in os.environ.items() if name not in RANK_VARIABLES}
    environment[JOB_DIRECTORY_VARIABLE] = str(directory)
    if int(environment.get("SLURM_PROCID", 0)) > 0:  # srun starts every rank: the first keeps the record
        environment[RUN_DIRECTORY_VARIABLE] = str(directory)
        ended = run_process(command, environment, hydra.runtime.cwd)
        status = "failed" if ended.code else "finished"
    else:
        with _locked(directory) as lock:
            if lock is None or not _make_room(directory):
                return
            write_whole(directory / "overrides.yaml", yaml.safe_dump(overrides, allow_unicode=True))
            record = {"overrides": overrides, "command": command, "status": "running"}
            _write_record(directory, record)
            begin = time.perf_counter()
            ended = run_process(command, environment, hydra.runtime.cwd, keep=[lock])
            status, error = _outcome(directory, ended)
            seconds = round(time.perf_counter() - begin, 3)
            _write_record(directory, record | {"status": status, "seconds": seconds, "error": error})
    if ended.told == signal.SIGINT:
        raise KeyboardInterrupt
    if ended.told is not None:
        sys.exit(128 + ended.told)
    if status != "finished":
        raise UserError(f"job {directory.name} {status}")


def refuse_many_processes() -> None:
    """A sweep starts its own processes: it is not itself one of several.

    Raises:
        UserError: torchrun or srun started this process beside others.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 or int(os.environ.get("SLURM_PROCID", 0)) > 0:
        raise UserError(
            "a sweep was started as several processes: start it once, with python train.py -m; "
            "trainer.devices=<n> gives each job its processes."
        )


def quoted(value: object) -> str:
    """A value for a Hydra override, whatever characters it has."""
    doubled = re.sub(r"(\\+)('|$)", r"\1\1\2", str(value))  # a backslash counts before a quote alone
    return "'" + doubled.replace("'", r"\'") + "'"


def _outcome(directory: Path, ended: Ended) -> tuple[str, str | None]:
    """How a job's process left its run: status and error."""
    summary = read_summary(directory)
    if ended.code == 0 and (ended.told is None or summary["status"] == "finished"):
        return "finished", None
    stopped = ended.told is not None or -ended.code in PASSED_ON or ended.code - 128 in PASSED_ON
    if stopped or summary["status"] == "interrupted":
        return "interrupted", ended.reason
    return "failed", summary.get("error") or ended.reason


def _status(directory: Path) -> str:
    """The status of a job that no process holds."""
    record = _read_record(directory)
    if record is None:
        return "not started"
    if record["status"] != "running":
        return str(record["status"])
    status = read_summary(directory)["status"]  # the sweep was killed; its job may have ended well without it
    return status if status in ("finished", "failed") else "interrupted"


def _make_room(directory: Path) -> bool:
    """Keep an earlier attempt of a job aside, whole; False if that attempt is finished."""
    status = _status(directory)
    if status == "finished":
        return False
    if status != "not started":
        attempt = 1
        while (aside := directory.with_name(f"{directory.name}.{status}-{attempt}")).exists():
            attempt += 1
        directory.rename(aside)
        directory.mkdir()
    return True


@contextmanager
def _locked(directory: Path) -> Iterator[int | None]:
    """The descriptor of a job's lock, None if a process holds it. Who inherits it holds it as well."""
    path = _lock_path(directory)
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield file.fileno()


def _is_locked(directory: Path) -> bool:
    """Whether a process runs the job. A shared lock, so that two who ask do not see each other."""
    try:
        with _lock_path(directory).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _lock_path(directory: Path) -> Path:
    return directory.parent / ".locks" / directory.name


def _read_record(directory: Path) -> dict[str, Any] | None:
    file = directory / "job.json"
    if not file.exists():
        return None
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    if not isinstance(record, dict) or "status" not in record:
        raise UserError(f"{file} is not the record of a job.")
    return record


def _write_record(directory: Path, record: dict[str, Any]) -> None:
    write_whole(directory / "job.json", json.dumps(record, indent=2) + "\n")


def _config_flags() -> list[str]:
    """Where this process's configuration came from, for another process."""
    hydra = HydraConfig.get()
    flags = ["--config-name", str(hydra.job.config_name)]
    for source in hydra.runtime.config_sources:
        flag = {"main": "--config-path", "command-line": "--config-dir"}.get(source.provider)
        if flag and source.schema == "file":
            flags += [flag, source.path]
    return flags


def _hydra_overrides() -> list[str]:
    """What was typed for Hydra itself and concerns a job, such as hydra.searchpath."""
    overrides = []
    for override in HydraConfig.get().overrides.hydra:
        key = override.split("=")[0].lstrip("+~").replace("/", ".")
        if not any(f"{key}.".startswith(f"{own}.") for own in SWEEP_ONLY):
            overrides.append(override)
    return overrides


def _is_list_of_strings(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
