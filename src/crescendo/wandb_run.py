"""A run in Weights & Biases: shown there while that works, and never at the training's expense.

Whatever goes wrong with W&B is one warning; metrics.csv has everything.
"""

import logging
import os
import socket
import subprocess
import threading
from collections.abc import Mapping
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from crescendo.runs import Run

SERVER_SECONDS = 2.0  # that W&B's server has to answer before the run goes on offline
START_SECONDS = 20.0  # that a run has to start online before it goes on offline
FINISH_SECONDS = 60.0  # that W&B has to upload what is left

log = logging.getLogger(__name__)


class WandbRun(WandbLogger):
    """Lightning's logger, without the errors of a W&B that fails halfway.

    Attributes:
        lost: nothing reaches W&B any more.
    """

    def __init__(self, experiment: Any) -> None:
        super().__init__(experiment=experiment)
        self.lost = False

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if self.lost:
            return
        try:
            super().log_metrics(metrics, step)
        except _errors() as error:
            self._lose(error)

    def finish(self, *, failed: bool) -> None:
        """Close the run, as failed where it is, within FINISH_SECONDS."""
        if self.lost:
            return
        problems: list[BaseException] = []

        def close() -> None:
            try:
                self.experiment.finish(exit_code=int(failed))
            except _errors() as error:
                problems.append(error)

        closing = threading.Thread(target=close, daemon=True)
        closing.start()
        closing.join(FINISH_SECONDS)
        if closing.is_alive():
            self._lose(TimeoutError(f"not finished after {FINISH_SECONDS:g} s"))
            _end_service()
        elif problems:
            self._lose(problems[0])

    def _lose(self, error: BaseException) -> None:
        self.lost = True
        log.warning(
            "W&B is lost (%s); metrics.csv goes on. What it has can be uploaded later: wandb sync %s",
            str(error) or type(error).__name__,
            Path(self.experiment.dir).parent,
        )


def weights_and_biases(
    run: Run, config: dict[str, Any], project: str, entity: str | None, group: str | None, tags: list[str]
) -> WandbRun | None:
    """A W&B run: online where a key is configured and the server answers in 2 s, else offline.

    It never prompts: without a key W&B is not asked to log in. WANDB_MODE decides where it is set. None, with
    a warning, where W&B cannot start at all.
    """
    import wandb  # a second of imports that other loggers need not pay

    def start(mode: Any) -> Any:
        return wandb.init(
            id=_wandb_id(run.directory),
            resume="allow",
            name=run.directory.name,
            project=project,
            entity=entity,
            group=group,
            tags=tags,
            dir=run.directory,
            config=config,
            mode=mode,
            settings=wandb.Settings(silent=True, console="off", init_timeout=START_SECONDS),
        )

    try:
        wandb.setup(wandb.Settings(silent=True))
        mode = os.environ.get("WANDB_MODE") or ("online" if _server_answers(wandb) else "offline")
        try:
            experiment = start(mode)
        except wandb.errors.CommError as error:
            log.warning("W&B did not start (%s); the run goes on offline", _first_line(error))
            mode = "offline"
            wandb.teardown()  # its service holds the run's id
            experiment = start(mode)
    except _errors() as error:
        log.warning("W&B did not start (%s); the run goes on with metrics.csv alone", _first_line(error))
        return None
    run.summary["wandb_id"] = experiment.id
    if mode == "offline":
        log.info("W&B is offline. To upload later: wandb sync %s", Path(experiment.dir).parent)
    return WandbRun(experiment)


def _end_service() -> None:
    """Kill W&B's service, which this process would wait for at its exit. What it was given is on the disk."""
    with suppress(OSError):  # a system without pkill waits
        subprocess.run(["pkill", "-KILL", "-P", str(os.getpid()), "-f", "wandb-core"], check=False)


def _errors() -> tuple[type[Exception], ...]:
    """What a W&B that fails raises: its service is another process, behind a socket."""
    import wandb

    return (wandb.errors.Error, OSError)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _wandb_id(directory: Path) -> str:
    """The same for a run and its resumption; W&B's ids are short and plain."""
    return blake2b("/".join(directory.parts[-2:]).encode(), digest_size=8).hexdigest()


def _server_answers(wandb: Any) -> bool:
    if not wandb.login(prompt=False, verify=False):
        return False
    address = urlparse(wandb.setup().settings.base_url)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname, port), SERVER_SECONDS).close()
    except OSError as error:
        log.warning("W&B: %s does not answer (%s); the run goes on offline", address.hostname, error)
        return False
    return True
