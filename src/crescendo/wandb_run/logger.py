"""Lightning's logger for W&B, without the errors of a W&B that fails halfway."""

import logging
import os
import shlex
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from rich import get_console

from crescendo.metrics_file import MetricsFile
from crescendo.runs import Run
from crescendo.step_metrics import PROGRESS
from crescendo.wandb_run.identity import without_secrets

ROW_SECONDS = 30.0  # that W&B's service has to take a row: it does no more than put it down
FINISH_SECONDS = 60.0  # that W&B has to upload what is left
STOP_SECONDS = 10.0  # the same where the system waits to end the run
UPLOAD = 1e6  # bytes a second, to which an artifact's upload may slow down
EXIT_CODES = {"finished": 0, "pruned": 0, "failed": 1, "interrupted": 255}  # W&B calls 255 killed
ARTIFACT = ("config.yaml", "overrides.yaml", "choices.yaml", "checkpoints/best.ckpt")
STAGING = "WANDB_DATA_DIR"  # where W&B keeps what an artifact is made of until it is uploaded

Ending = Literal["finished", "pruned", "failed", "interrupted"]
XAxis = Literal["epochs", "images", "macs", "seconds"]

log = logging.getLogger(__name__)


class WandbRun(WandbLogger):
    """One W&B run for a run directory, however often that was resumed.

    A row of metrics.csv is a step of W&B's. When a run is resumed, rows that W&B has and that come again are
    not sent twice, and rows that it lacks are sent first: steps and axes only rise, without a gap. Every row
    has how far the training was (PROGRESS).

    Args:
        x_axis: what W&B draws curves against unless it is told otherwise.
        artifact: upload the best checkpoint, with what it takes to use it, at the end.
        sent: rows that W&B has of the run by now.

    Attributes:
        lost: nothing reaches W&B any more.
        results: tables, charts and images that are logged at the end.
    """

    def __init__(
        self,
        experiment: Any,
        run: Run,
        *,
        x_axis: XAxis = "epochs",
        artifact: bool = False,
        sent: int = 0,
    ) -> None:
        super().__init__(experiment=experiment)
        self.lost = False
        self.results: Mapping[str, Any] = {}
        self._run, self._artifact = run, artifact
        self._row, self._sent = 0, sent  # the next row's number; the first that W&B lacks
        self._progress: dict[str, float] = {}
        for axis in PROGRESS:
            experiment.define_metric(axis, hidden=True)
        experiment.define_metric("*", step_metric=f"train/{x_axis}")

    def go_on(self, file: MetricsFile) -> None:
        """The training is about to begin, or to begin again, at the end of metrics.csv."""
        self._row, self._progress = 0, {}
        for step, metrics in file.numbers():
            self.log_metrics(metrics, step)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._progress |= {axis: metrics[axis] for axis in PROGRESS if axis in metrics}
        row, self._row = self._row, self._row + 1
        if row < self._sent:
            return
        self._sent = self._row
        values = {**self._progress, **metrics, "trainer/global_step": step}
        self._try(lambda: self.experiment.log(values, step=row, commit=True), ROW_SECONDS)

    def finish(self, ending: Ending, error: str | None = None) -> None:
        """Close the run with its results and summary, as failed where it is, in the time that there is."""
        seconds = STOP_SECONDS if ending == "interrupted" else FINISH_SECONDS
        files: dict[str, Path] = {}
        if ending == "finished" and self._artifact:
            files = {name: path for name in ARTIFACT if (path := self._run.directory / name).is_file()}
            seconds += sum(path.stat().st_size for path in files.values()) / UPLOAD

        def close() -> None:
            if self.results:
                self.experiment.log({**self._progress, **self.results}, step=self._row, commit=True)
            if files:
                self._log_best(files)
            said = self._run.summary | {"status": ending, "error": error}
            metrics = said.pop("metrics", {})  # of the best checkpoint, where the history has the last
            known = {key: value for key, value in said.items() if value is not None}
            self.experiment.summary.update(without_secrets(known | metrics))
            self.experiment.finish(exit_code=EXIT_CODES[ending])

        self._try(close, seconds)

    def _log_best(self, files: Mapping[str, Path]) -> None:
        """The best checkpoint as an artifact that is laid out like a run directory, and used like one."""
        import wandb

        best = wandb.Artifact(f"model-{self.experiment.id}", "model", metadata=self._run.summary["metrics"])
        for name, path in files.items():
            best.add_file(str(path), name, skip_cache=True, policy="immutable")  # it is not copied
        self.experiment.log_artifact(best, aliases=["best"])

    def _try(self, action: Callable[[], None], seconds: float) -> None:
        """Do something, unless W&B is lost; it is once that fails, or takes longer than so many seconds."""
        if self.lost:
            return
        raised: list[Exception] = []

        def act() -> None:
            try:
                with _staged_in(self._run.directory):
                    action()
            except Exception as error:  # noqa: BLE001  # what W&B and its service raise is theirs to choose
                raised.append(error)

        acting = threading.Thread(target=act, daemon=True)
        acting.start()
        acting.join(seconds)
        if acting.is_alive():
            self._lose(TimeoutError(f"no answer in {seconds:g} s"))
        elif raised:
            self._lose(raised[0])

    def _lose(self, error: BaseException) -> None:
        self.lost = True
        _end_service()
        log.warning(
            "W&B is lost (%s); metrics.csv goes on. What it has can be uploaded later:",
            without_secrets(str(error)) or type(error).__name__,
        )
        options = [] if self.experiment.offline else ["--include-online"]
        show_upload(Path(self.experiment.dir).parent, *options)


def show_upload(files: Path, *options: str) -> None:
    """The command that uploads a run's files, on one line to copy, however long it is."""
    here = Path.cwd()
    shown = files.relative_to(here) if files.is_relative_to(here) else files
    show_line(shlex.join(["wandb", "sync", *options, str(shown)]))


def show_line(line: str) -> None:
    get_console().print(line, soft_wrap=True, highlight=False, markup=False)


def errors() -> tuple[type[Exception], ...]:
    """What a W&B that does not start raises: its service is another process, behind a socket."""
    import wandb

    return (wandb.errors.Error, OSError)


@contextmanager
def _staged_in(directory: Path) -> Iterator[None]:
    """Keep what is yet to be uploaded in the run directory, unless the user has another place for it."""
    if STAGING in os.environ:
        yield
        return
    os.environ[STAGING] = str(directory / "wandb")
    try:
        yield
    finally:
        os.environ.pop(STAGING, None)


def _end_service() -> None:
    """Kill W&B's service, which this process would wait for at its exit. What it was given is on the disk."""
    with suppress(OSError):  # a system without pkill waits
        subprocess.run(["pkill", "-KILL", "-P", str(os.getpid()), "-f", "wandb-core"], check=False)
