"""The beginning of a run in W&B: online where a key is configured and its server answers, else offline."""

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from ssl import SSLError
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlparse
from urllib.request import Request, build_opener

from pydantic import ValidationError

from crescendo.errors import UserError
from crescendo.runs import Run
from crescendo.wandb_run.identity import describe, id_of, name_of, sweep_of, without_secrets
from crescendo.wandb_run.logger import WandbRun, XAxis, errors, show_line, show_upload

SERVER_SECONDS = 2.0  # that W&B's server has to answer before the run goes on offline
START_SECONDS = 20.0  # that a run has to start online before it goes on offline
FLUSH_SECONDS = 1.0  # after which what was logged is on the disk: a run that is killed loses no more
READ_SECONDS = 30.0  # that W&B has to read its own files

log = logging.getLogger(__name__)


def weights_and_biases(
    run: Run,
    config: dict[str, Any],
    project: str,
    entity: str | None = None,
    name: str | None = None,
    group: str | None = None,
    job_type: str | None = None,
    tags: Sequence[str] = (),
    notes: str | None = None,
    x_axis: XAxis = "epochs",
    artifact: bool = False,
) -> WandbRun | None:
    """A W&B run: online where a key is configured and the server answers in 2 s, else offline.

    It never prompts: without a key W&B is not asked to log in. WANDB_MODE decides where it is set, or what
    `wandb offline` and `wandb disabled` left. None where W&B is disabled or, with a warning, cannot start.

    Args:
        name: by default that of the run directory, and of its sweep.
        group: by default the sweep's id.
        job_type: by default "train".
        x_axis, artifact: as WandbRun has them.

    Raises:
        UserError: a setting is none of W&B's, such as a tag that is too long.
    """
    import wandb  # a second of imports that other loggers need not pay

    mode: Any = None
    why = None
    earlier = sorted((run.directory / "wandb").glob("*run-*"))

    def start() -> Any:
        return wandb.init(
            id=id_of(run.directory),
            resume="allow",
            name=name or name_of(run.directory),
            project=project,
            entity=entity,
            group=group or sweep_of(run.directory),
            job_type=job_type or "train",
            tags=list(tags) or None,  # or WANDB_TAGS
            notes=notes,
            dir=run.directory,
            config=describe(run, config),
            mode=mode,
            # Neither a diff of what is not committed nor the repository's address leave this machine.
            settings=wandb.Settings(
                silent=True,
                console="off",
                init_timeout=START_SECONDS,
                disable_git=True,
                save_code=False,
                x_transaction_log_flush_interval=FLUSH_SECONDS,
            ),
        )

    try:
        kept = wandb.setup(wandb.Settings(silent=True)).settings.mode  # in W&B's own files
        mode = os.environ.get("WANDB_MODE") or (kept if kept != "online" else None)
        if mode == "disabled":
            return None
        if mode is None:
            why = why_offline(wandb)
            mode = "offline" if why else "online"
        try:
            experiment = start()
        except wandb.errors.CommError as error:
            mode, why = "offline", f"it did not start ({_first_line(error)})"
            wandb.teardown()  # its service holds the run's id
            experiment = start()
        sent = rows_in(earlier) if experiment.offline else experiment.step
        logger = WandbRun(experiment, run, x_axis=x_axis, artifact=artifact, sent=sent)
    except ValidationError as error:
        wrong = "; ".join(each["msg"].removeprefix("Value error, ") for each in error.errors())
        raise UserError(f"W&B refuses what logger, or WANDB_* in the environment, sets: {wrong}.") from error
    except errors() as error:
        log.warning("W&B did not start (%s); the run goes on with metrics.csv alone", _first_line(error))
        return None
    run.summary["wandb_id"] = experiment.id
    if experiment.offline:
        _tell_offline(why)
        show_upload(run.directory / "wandb")
    else:
        show_line(f"W&B: {experiment.url}")
    return logger


def rows_in(sessions: Sequence[Path]) -> int:
    """How many rows W&B's directories of a run hold; of those that W&B cannot read, none."""
    steps = [-1]
    for session in sessions:
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", "--summary", str(session)]
        with suppress(OSError, subprocess.SubprocessError, ValueError):
            said = subprocess.run(command, capture_output=True, check=True, timeout=READ_SECONDS).stdout
            step = json.loads(said)["step"]
            steps += [] if step is None else [int(step)]
    return max(steps) + 1


NO_KEY = "it has no key (wandb login)"


def why_offline(wandb: Any) -> str | None:
    """What keeps a run from being online; None where a key is configured and the server answers.

    Args:
        wandb: the package.
    """
    try:
        if not wandb.login(prompt=False, verify=False):
            return NO_KEY
    except wandb.errors.Error as error:
        return f"its key is refused ({_first_line(error)})"
    return unreachable(wandb.setup().settings.base_url)


def unreachable(url: str) -> str | None:
    """Why a server, behind the system's proxy if there is one, says nothing in SERVER_SECONDS; or None.

    A resolver that does not answer has no time limit of its own, so all of it happens beside this thread.
    """
    asked = Request(f"{url}/graphql", method="HEAD")
    said: list[str | None] = []

    def ask() -> None:
        try:
            build_opener().open(asked, timeout=SERVER_SECONDS).close()
        except HTTPError:
            said.append(None)  # it refuses: that is an answer
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            said.append(None if isinstance(reason, SSLError) else str(reason) or type(reason).__name__)
        else:
            said.append(None)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(SERVER_SECONDS)
    reason = said[0] if said else f"nothing in {SERVER_SECONDS:g} s"
    return None if reason is None else f"{urlparse(url).hostname} does not answer ({reason})"


def _tell_offline(why: str | None) -> None:
    """A warning where the run was to be online."""
    level = logging.INFO if why is None or why == NO_KEY else logging.WARNING
    log.log(level, "W&B is offline%s. To upload later:", f": {why}" if why else "")


def _first_line(error: Exception) -> str:
    return str(without_secrets(str(error)) or type(error).__name__).splitlines()[0]
