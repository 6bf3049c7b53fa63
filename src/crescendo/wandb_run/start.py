"""The beginning of a run in W&B: online where a key is configured and its server answers, else offline."""

import json
import logging
import os
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import getproxies, proxy_bypass

from crescendo.runs import Run
from crescendo.wandb_run.identity import describe, id_of, name_of, sweep_of, without_secrets
from crescendo.wandb_run.logger import WandbRun, XAxis, errors

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

    It never prompts: without a key W&B is not asked to log in. WANDB_MODE decides where it is set. None, with
    a warning, where W&B cannot start at all.

    Args:
        name: by default that of the run directory, and of its sweep.
        group: by default the sweep's id.
        job_type: by default "train".
        x_axis, artifact: as WandbRun has them.
    """
    import wandb  # a second of imports that other loggers need not pay

    mode: Any = os.environ.get("WANDB_MODE")
    why = None
    if mode == "disabled":
        return None
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
            tags=list(tags),
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
        wandb.setup(wandb.Settings(silent=True))
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
    except errors() as error:
        log.warning("W&B did not start (%s); the run goes on with metrics.csv alone", _first_line(error))
        return None
    run.summary["wandb_id"] = experiment.id
    if mode == "offline":
        _tell(why, run.directory / "wandb")
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
    """Why a server, or the proxy in front of it, takes no connection in SERVER_SECONDS; None if it does.

    A resolver that does not answer has no time limit of its own, so all of it happens beside this thread.
    """
    host, port = _first_hop(url)
    said: list[str | None] = []

    def connect() -> None:
        try:
            socket.create_connection((host, port), SERVER_SECONDS).close()
            said.append(None)
        except OSError as error:
            said.append(str(error))

    connecting = threading.Thread(target=connect, daemon=True)
    connecting.start()
    connecting.join(SERVER_SECONDS)
    reason = said[0] if said else f"nothing in {SERVER_SECONDS:g} s"
    return None if reason is None else f"{host} does not answer ({reason})"


def _first_hop(url: str) -> tuple[str, int]:
    """Host and port that a connection to `url` goes to first: the system's proxy for it, if there is one."""
    server = urlparse(url)
    proxy = getproxies().get(server.scheme)
    if proxy and not proxy_bypass(server.hostname or ""):
        server = urlparse(proxy if "://" in proxy else f"http://{proxy}")
    return server.hostname or "", server.port or (443 if server.scheme == "https" else 80)


def _tell(why: str | None, files: Path) -> None:
    """One line says that the run is offline, and how it is uploaded; a warning where it was to be online."""
    here = Path.cwd()
    shown = files.relative_to(here) if files.is_relative_to(here) else files
    expected = why is None or why == NO_KEY
    log.log(
        logging.INFO if expected else logging.WARNING,
        "W&B is offline%s. To upload later:\nwandb sync %s",
        f": {why}" if why else "",
        shlex.quote(str(shown)),
    )


def _first_line(error: Exception) -> str:
    return str(without_secrets(str(error)) or type(error).__name__).splitlines()[0]
