"""Going on with a recorded sweep: its command again, if it is one that may be trusted.

A sweep directory that came from elsewhere is data. Its command starts this project's train.py, and what Hydra
would take code, files or shell commands from is refused by name.
"""

import os
import re
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from crescendo.errors import UserError
from crescendo.sweeps.jobs import quoted
from crescendo.sweeps.record import Sweep

# Hydra's own settings that a recorded command may have. Others, such as hydra.callbacks, hydra.searchpath,
# hydra.job_logging, hydra.job.env_set or hydra.launcher.setup, can execute what they name.
HARMLESS = (
    *("hydra.mode", "hydra.run.dir", "hydra.sweep", "hydra.verbose"),
    *("hydra.sweeper.params", "hydra.sweeper.study", "hydra.sweeper.coefficients"),
    "hydra.sweeper.resume",
    *(
        f"hydra.launcher.{name}"
        for name in (
            *("n_jobs", "name", "nodes", "tasks_per_node", "cpus_per_task", "gpus_per_node", "mem_gb"),
            *("timeout_min", "partition", "qos", "account", "constraint", "array_parallelism", "comment"),
        )
    ),
)
LAUNCHERS = ("basic", "joblib", "submitit_local", "submitit_slurm", "slurm")
OUTSIDE = re.compile(r"\.\.|(^|[(,'\"\s])/")  # of conf/: a path that goes up, or begins at the root
PATHS = ("weights", "runs_dir", "resume")  # settings of the configuration's top that name a file


def resume_sweep(sweep: Sweep) -> None:
    """Run the jobs that are not done with the command of the sweep, in place of this process.

    Raises:
        UserError: the command's script or working directory is gone, or the command is refused.
    """
    script, *arguments = sweep.command[1:]
    directory = sweep.directory.resolve()
    for path in (script, sweep.cwd):
        if not Path(path).exists():
            raise UserError(f"{sweep.directory} was started with {path}, which is not there any more.")
    if Path(script).name != "train.py" or Path(script).resolve().is_relative_to(directory):
        raise UserError(
            f"{sweep.directory} was started with {script}: refused. Only a project's train.py is run."
        )
    given = _parsed(sweep, arguments)
    for refused in _refused(sweep, given):
        raise UserError(
            f"{sweep.directory} was started with {refused}: refused, since it may execute what came with the "
            f"sweep. If the sweep is yours, type its command again, with hydra.sweep.dir={sweep.directory} "
            "hydra.sweeper.resume=true."
        )
    os.chdir(sweep.cwd)
    os.environ["PWD"] = sweep.cwd
    resumed = (f"hydra.sweep.dir={quoted(directory)}", "hydra.sweeper.resume=true")
    last = arguments.index(given.overrides[-1]) + 1 if given.overrides else len(arguments)
    arguments[last:last] = resumed  # Hydra takes overrides in one piece: flags may follow them
    os.execv(sys.executable, [sys.executable, script, *arguments])


def _parsed(sweep: Sweep, arguments: Sequence[str]) -> Namespace:
    try:
        return get_args_parser().parse_args(arguments)
    except SystemExit as error:
        raise UserError(f"{sweep.directory} was started with arguments that Hydra does not know.") from error


def _refused(sweep: Sweep, given: Namespace) -> Iterator[str]:
    """What of a recorded sweep may execute something from elsewhere."""
    if given.experimental_rerun is not None:  # a pickle
        yield f"--experimental-rerun {given.experimental_rerun}"
    for flag, value in (("--config-path", given.config_path), ("--config-dir", given.config_dir)):
        if value is not None and _came_along(sweep, value):
            yield f"{flag} {value}"
    if ".." in (given.config_name or ""):
        yield f"--config-name {given.config_name}"
    overrides = [*given.overrides, *(override for job in sweep.jobs for override in job)]
    overrides += sweep.study.space if sweep.study else []
    for override in OverridesParser.create().parse_overrides(overrides):
        if not _is_harmless(override):
            yield str(override.input_line)


def _came_along(sweep: Sweep, place: str) -> bool:
    path = Path(sweep.cwd, place).resolve()
    return path.is_relative_to(sweep.directory.resolve())


def _is_harmless(override: Override) -> bool:
    key = override.key_or_group.replace("/", ".")
    value = override.get_value_string() if override.value_type else ""
    if (override.package or "").split(".")[0] in ("hydra", "_global_"):
        return False
    if key == "hydra.launcher" and "/" in override.key_or_group:
        return value in LAUNCHERS
    if key.split(".")[0] == "hydra":
        return "_target_" not in value and any(f"{key}.".startswith(f"{name}.") for name in HARMLESS)
    is_option = "." not in override.key_or_group and key not in PATHS
    return not (is_option and OUTSIDE.search(value))  # an option of a group is the name of a file in conf/
