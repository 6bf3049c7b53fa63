"""A run is a directory: its configuration, its log, its checkpoints, and how it ended.

runs/<name>/<date>_<time>_<short id>/
  config.yaml  overrides.yaml  choices.yaml
  metrics.csv  train.log  confusion_matrix.csv  predictions.csv
  checkpoints/best.ckpt  checkpoints/last.ckpt
  summary.json
"""

import errno
import fcntl
import glob
import json
import logging
import math
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from crescendo.errors import Interrupted, UserError, no_directory
from crescendo.storage import write_whole

RUN_DIRECTORY_VARIABLE = "CRESCENDO_RUN_DIRECTORY"  # tells the other ranks where rank 0 writes
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # of a disk, a quota, a file; and a broken disk
REQUEUED = ".requeued"  # in a run directory: the SLURM job that is started again to go on with it
LOCK = ".lock"  # in the run directory, held while the run goes on
JOB_DIRECTORY_VARIABLE = "CRESCENDO_JOB_DIRECTORY"  # tells a sweep's job where it writes
TRACEBACK_LOGGER = "crescendo.traceback"  # goes to train.log, not to the console
EARLIER_ATTEMPT = re.compile(r"^\d+\.(failed|interrupted)-\d+$")  # of a sweep's job that ran again
PACKAGES = ("crescendo", "torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "numpy")
SUMMARY = (
    "status",  # finished, failed, interrupted, or pruned by a study
    "seconds",  # in all processes that trained it; of one that was killed they are not known
    "images_per_second",  # of training alone
    "step_seconds",  # of a step at the last resolution, measured under measure_step, without loading
    "data_wait",  # share of the training's time, without compiling, in which rank 0 waited for batches
    "compile_seconds",  # of torch.compile, which images_per_second leaves out; 0 without
    "bn_refresh_seconds",  # of taking batch norm's statistics anew for validations; null without
    "bn_refresh_macs",  # of the same, over all devices
    "parameters",
    "macs",  # of one image at the resolution of evaluation
    "train_macs",  # spent on training: 3 x the forward pass's x images, of a linear probe 1 x
    "cpu_seconds",  # of all ranks on training and compiling, without validation, test and loader workers
    "peak_memory_bytes",
    "best_epoch",  # from 0, as in metrics.csv
    "metrics",  # of the best checkpoint; accuracies in 0..1
    "git_revision",
    "packages",
    "machine",  # what may change the last bits: processor, its instructions, threads, GPU
    "wandb_id",
    "not_applied",  # knobs that are on and that the net has no layer for
    "faulty_images",  # that could not be read, under data.on_error=skip
    "skipped_windows",  # of batches around a loss that was not finite, under on_nonfinite=skip
    "error",
)


@dataclass
class Run:
    """A run that is going on. `summary` is written to summary.json when it ends, however it ends.

    Attributes:
        choices: the option of each group of the configuration; empty where that is not on record.
        pruned: the study that it is a trial of has given it up: it ends early, and well.
    """

    directory: Path
    choices: Mapping[str, str] = field(default_factory=dict)
    pruned: bool = False
    summary: dict[str, Any] = field(default_factory=dict)


def new_directory(parent: Path) -> Path:
    """Make <parent>/<date>_<time>_<short id>; two runs of one second get two directories."""
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    return make_directory(parent / f"{stamp}_{secrets.token_hex(2)}")


def make_directory(directory: Path) -> Path:
    """Make a run directory, which must not be there."""
    try:
        directory.mkdir(parents=True)
    except OSError as error:
        raise UserError(
            f"the run directory {directory} cannot be made: {error.strerror}. Set runs_dir=<directory>."
        ) from error
    return directory


def is_held(directory: Path) -> bool:
    """Whether a living process writes to this run; whatever ends a process, its hold ends with it."""
    path = directory / LOCK
    if not path.exists():
        return False
    with path.open("r+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


@contextmanager
def _holding(directory: Path) -> Iterator[None]:
    """Hold a run: a record lock, which forked workers do not inherit."""
    path = directory / LOCK
    with path.open("w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"{directory} is held by a living process: wait for it, or stop it.") from error
        try:
            yield
        finally:
            path.unlink()


@contextmanager
def recording(
    directory: Path,
    config: DictConfig,
    overrides: Sequence[str],
    choices: Mapping[str, str] | None = None,
    *,
    rank_zero: bool,
) -> Iterator[Run]:
    """Record a run: its configuration and log now, summary.json at the end.

    A finished run, a pruned, a failed and an interrupted one each say so. Other ranks than 0 write nothing.

    Args:
        choices: the option of each group, of a run that begins; one that is resumed has them on record.
    """
    resumed = config.get("resume") is not None
    run = Run(directory, read_choices(directory) if resumed else dict(choices or {}))
    if not rank_zero:
        yield run
        return
    with _holding(directory):
        yield from _record(run, config, overrides)


def _record(run: Run, config: DictConfig, overrides: Sequence[str]) -> Iterator[Run]:
    directory = run.directory
    write_whole(directory / "config.yaml", OmegaConf.to_yaml(config, resolve=True))
    if config.get("resume") is None:
        write_whole(directory / "overrides.yaml", OmegaConf.to_yaml(OmegaConf.create(list(overrides))))
        write_whole(directory / "choices.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(run.choices))))
    handler = _RunLog(directory / "train.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    roots = [logging.getLogger(name) for name in ("crescendo", "lightning.pytorch", "py.warnings")]
    for root in roots:
        root.addHandler(handler)
    begin = time.perf_counter() - (read_summary(directory).get("seconds") or 0.0)  # of a run that goes on
    (directory / "summary.json").unlink(missing_ok=True)
    run.summary |= dict.fromkeys(SUMMARY) | {"status": "failed", "metrics": {}, "not_applied": []}
    run.summary |= {"git_revision": git_revision(), "packages": _versions()}
    try:
        yield run
        run.summary["status"] = "pruned" if run.pruned else "finished"
    except (Interrupted, KeyboardInterrupt) as interrupted:
        run.summary |= {"status": "interrupted", "error": str(interrupted) or "interrupted from the keyboard"}
        raise
    except BaseException as error:
        run.summary["error"] = str(error) or type(error).__name__
        logging.getLogger(TRACEBACK_LOGGER).error("the run failed", exc_info=True)
        raise
    finally:
        run.summary["seconds"] = round(time.perf_counter() - begin, 3)
        write_summary(directory, run.summary)
        for root in roots:
            root.removeHandler(handler)
        handler.close()


def write_summary(directory: Path, summary: dict[str, Any]) -> None:
    """Write summary.json, whole or not at all. JSON has no NaN: a number that is not finite is null."""
    text = json.dumps(_finite_or_none(summary), indent=2, allow_nan=False)
    write_whole(directory / "summary.json", text + "\n")


def _finite_or_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite_or_none(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def storage_errors(directory: Path) -> Iterator[None]:
    """Say what to do where a run's disk is full, or its directory is gone or may not be written.

    Raises:
        UserError: in place of the system's error.
    """
    try:
        yield
    except OSError as error:
        here = error.filename is not None and Path(error.filename).is_relative_to(directory)
        if not here and error.errno not in FULL:
            raise
        place = directory if directory.exists() else directory.parent
        free = shutil.disk_usage(place).free / 1e6 if place.exists() else 0.0
        raise UserError(
            f"{directory} cannot be written: {error.strerror} ({free:,.0f} MB free there). What was written "
            f"before is whole. Make room, then: python train.py resume={shlex.quote(str(directory))}"
        ) from error


class _RunLog(logging.FileHandler):
    """train.log, which a full disk cuts short, without a word for each line that is lost."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # the base's name
        if isinstance(sys.exc_info()[1], OSError):
            self.setLevel(logging.CRITICAL + 1)
        else:
            super().handleError(record)


def read_config(directory: Path) -> DictConfig:
    """The resolved configuration of a run.

    Raises:
        UserError: the directory is no run, or its config.yaml cannot be read.
    """
    path = _file_of_run(directory, "config.yaml")
    try:
        config = OmegaConf.load(path)
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(config, DictConfig) or "data" not in config or "model" not in config:
        raise UserError(f"{path} is not the configuration of a crescendo run.")
    return config


def read_overrides(directory: Path) -> list[str]:
    """What was typed for a run; nothing where that is not recorded.

    Raises:
        UserError: its overrides.yaml cannot be read.
    """
    overrides = _read_yaml(directory / "overrides.yaml")
    return [str(override) for override in overrides] if isinstance(overrides, list) else []


def read_choices(directory: Path) -> dict[str, str]:
    """The option of each group that a run was composed of; nothing where that is not recorded.

    Raises:
        UserError: its choices.yaml cannot be read.
    """
    choices = _read_yaml(directory / "choices.yaml")
    return {str(group): str(option) for group, option in choices.items()} if isinstance(choices, dict) else {}


def _read_yaml(path: Path) -> Any:
    """The plain values of a file; None where there is none."""
    if not path.is_file():
        return None
    try:
        return OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def read_summary(directory: Path) -> dict[str, Any]:
    """The summary of a run; one that has none yet is unfinished."""
    path = directory / "summary.json"
    if not path.exists():
        return {"status": "unfinished", "metrics": {}}
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(summary, dict):
        raise UserError(f"{path} is not the summary of a crescendo run.")
    return dict.fromkeys(SUMMARY) | {"status": "unknown", "metrics": {}} | summary


def find_runs(places: Sequence[Path]) -> list[Path]:
    """Every run directory among `places` and below them, each once, by path within a place.

    A place may be a pattern, such as runs/digits_*. An earlier attempt of a sweep's job is found only where
    it is a place itself.

    Raises:
        UserError: a place that does not exist or holds no run.
    """
    found: dict[Path, None] = {}
    for place in [match for given in places for match in matching(given)]:
        configs = sorted(place.rglob("config.yaml"))
        directories = [path.parent for path in configs if (path.parent / "overrides.yaml").exists()]
        directories = [path for path in directories if path == place or not EARLIER_ATTEMPT.search(path.name)]
        if not directories:
            raise UserError(f"{place} holds no run: no config.yaml with an overrides.yaml beside it.")
        found |= dict.fromkeys(directory.resolve() for directory in directories)
    return list(found)


def matching(place: Path) -> list[Path]:
    """The directory that `place` is, or those that match it as a shell's pattern.

    Raises:
        UserError: there is none.
    """
    if place.is_dir():
        return [place]
    matches = [Path(match) for match in sorted(glob.glob(str(place), recursive=True)) if Path(match).is_dir()]
    if not matches:
        raise no_directory(place)
    return matches


def best_checkpoint(directory: Path) -> Path:
    """The checkpoint that evaluation uses: the best, else the last.

    Raises:
        UserError: the run has none.
    """
    for name in ("best.ckpt", "last.ckpt"):
        path = directory / "checkpoints" / name
        if path.is_file():
            return path
    raise UserError(f"{directory} has no checkpoint: the run ended before the first was written.")


def git_revision() -> str | None:
    """The commit of the working directory's repository, with "+" if files were changed since."""
    try:
        revision, changes = (
            subprocess.run(
                ["git", *arguments], capture_output=True, text=True, check=True, timeout=5
            ).stdout.strip()
            for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return revision + ("+" if changes else "")


def _versions() -> dict[str, str]:
    return {"python": sys.version.split()[0], **{name: version(name) for name in PACKAGES}}


def _file_of_run(directory: Path, name: str) -> Path:
    if not directory.is_dir():
        raise no_directory(directory)
    path = directory / name
    if not path.is_file():
        inside = [str(config.parent) for config in sorted(directory.rglob(name))[:3]]
        hint = f" Runs below it: {', '.join(inside)}." if inside else ""
        raise UserError(f"{directory} is not a run directory: it has no {name}.{hint}")
    return path
