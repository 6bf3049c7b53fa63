"""A job of a sweep: a process that trains in its own directory, a record of how it ended, a lock."""

import fcntl
import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig

from crescendo.errors import EXIT_CODE, UserError
from crescendo.processes import PASSED_ON, Ended, run_process
from crescendo.runs import JOB_DIRECTORY_VARIABLE, RUN_DIRECTORY_VARIABLE, read_summary
from crescendo.storage import write_whole

# What tells a process that it is one of several: a job of a sweep is the first of its own.
RANK_VARIABLES = (
    *("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "ROLE_RANK"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE"),
    *("MASTER_ADDR", "MASTER_PORT", RUN_DIRECTORY_VARIABLE),
)
# Hydra's settings that are the sweep's, not the job's.
SWEEP_ONLY = ("hydra.mode", "hydra.run", "hydra.sweep", "hydra.sweeper", "hydra.launcher")
DONE = ("finished", "pruned")  # the statuses of a job that is not run again
KILLED = (*PASSED_ON, signal.SIGKILL)  # signals that end a job from outside: it did not fail


def run_job(script: str) -> None:
    """Run one job of a sweep, the one that Hydra is set to, in a process of its own, and record it.

    Nothing is started if another process runs the job, or it is done. A job that was interrupted goes on
    from its checkpoint, if it has one.

    Args:
        script: train.py.

    Raises:
        UserError: the job did not finish; the other jobs of the sweep go on.
        KeyboardInterrupt, SystemExit: the sweep was told to stop, and so was the job.
    """
    hydra = HydraConfig.get()
    directory = Path(hydra.runtime.output_dir)
    overrides = list(hydra.overrides.task)
    start = [sys.executable, script, *_config_flags(), *_hydra_overrides(), "hydra.mode=RUN"]
    environment = {name: value for name, value in os.environ.items() if name not in RANK_VARIABLES}
    environment[JOB_DIRECTORY_VARIABLE] = str(directory)
    if int(environment.get("SLURM_PROCID", 0)) > 0:  # srun starts every rank: the first keeps the record
        environment[RUN_DIRECTORY_VARIABLE] = str(directory)
        ended = run_process([*start, *overrides], environment, hydra.runtime.cwd)
        status = "failed" if ended.code else "finished"
    else:
        with locked(directory) as lock:
            if lock is None or (earlier := _status_left(directory)) in DONE:
                return
            if earlier == "interrupted" and any((directory / "checkpoints").glob("*.ckpt")):
                command = [*start, f"resume={quoted(directory)}"]  # with the run's own configuration
            else:
                _make_room(directory, earlier)
                write_whole(directory / "overrides.yaml", yaml.safe_dump(overrides, allow_unicode=True))
                command = [*start, *overrides]
            record = {"overrides": overrides, "command": command, "status": "running"}
            _write_record(directory, record)
            begin = time.perf_counter()
            ended = run_process(command, environment, hydra.runtime.cwd, keep=[lock])
            status, error = outcome(directory, ended)
            seconds = round(time.perf_counter() - begin, 3)
            _write_record(directory, record | {"status": status, "seconds": seconds, "error": error})
    if ended.told == signal.SIGINT:
        raise KeyboardInterrupt
    if ended.told is not None:
        sys.exit(128 + ended.told)
    if status not in DONE:
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


def job_status(directory: Path) -> str:
    """finished, pruned, failed, interrupted, running or not started."""
    return "running" if _is_locked(directory) else _status_left(directory)


def _status_left(directory: Path) -> str:
    """The status of a job that no other process holds."""
    record = read_record(directory)
    if record is None:
        return "not started"
    # The sweep may have been killed, and its job have ended without it; or the run was resumed by itself.
    status = read_summary(directory)["status"]
    if status in DONE:
        return str(status)
    if record["status"] != "running":
        return str(record["status"])
    return "failed" if status == "failed" else "interrupted"


def read_record(directory: Path) -> dict[str, Any] | None:
    """A job's job.json; None before the job started.

    Raises:
        UserError: it cannot be read, or is something else.
    """
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


@contextmanager
def locked(directory: Path) -> Iterator[int | None]:
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


def quoted(value: object) -> str:
    """A value for a Hydra override, whatever characters it has."""
    doubled = re.sub(r"(\\+)('|$)", r"\1\1\2", str(value))  # a backslash counts before a quote alone
    return "'" + doubled.replace("'", r"\'") + "'"


def outcome(directory: Path, ended: Ended) -> tuple[str, str | None]:
    """How a job's process left its run: status and error."""
    summary = read_summary(directory)
    if ended.code == 0 and (ended.told is None or summary["status"] in DONE):
        return "pruned" if summary["status"] == "pruned" else "finished", None
    stopped = ended.told is not None or -ended.code in KILLED or ended.code - 128 in PASSED_ON
    # Beside a refusal, "interrupted" is what an earlier process of the job recorded.
    recorded = summary["status"] == "interrupted" and ended.code != EXIT_CODE
    if stopped or recorded:
        return "interrupted", ended.reason
    return "failed", (summary["status"] == "failed" and summary.get("error")) or ended.reason


def _make_room(directory: Path, status: str) -> None:
    """Keep an earlier attempt of a job aside, whole."""
    if status != "not started":
        attempt = 1
        while (aside := directory.with_name(f"{directory.name}.{status}-{attempt}")).exists():
            attempt += 1
        directory.rename(aside)
        directory.mkdir()


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
