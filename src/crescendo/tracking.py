"""What is seen of a training: messages, the progress bar, TensorBoard, the end of W&B."""

import logging
from collections.abc import Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from rich import get_console
from rich.logging import RichHandler

from crescendo.classifier import ImageClassifier
from crescendo.data.datamodule import AddressedDataset
from crescendo.errors import Interrupted, UserError
from crescendo.metrics_file import MetricsFile
from crescendo.runs import TRACEBACK_LOGGER, Run
from crescendo.step_metrics import StepMetrics
from crescendo.wandb_run import WandbRun
from crescendo.wandb_run.logger import Ending
from crescendo.wandb_run.results import show

log = logging.getLogger(__name__)


def show_messages() -> None:
    """Send our messages to the console, above a live progress bar; Lightning's only where they warn."""
    ours = logging.getLogger("crescendo")
    ours.setLevel(logging.INFO)
    ours.propagate = False
    if not ours.handlers:
        handler = RichHandler(show_path=False, show_level=False, log_time_format="%H:%M:%S")
        handler.addFilter(lambda record: record.name != TRACEBACK_LOGGER)
        ours.addHandler(handler)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.captureWarnings(True)


def tensorboard(run: Run, config: dict[str, Any]) -> TensorBoardLogger:
    """TensorBoard's event files, in the run directory's tensorboard/.

    Raises:
        UserError: the extra is not installed.
    """
    try:
        return TensorBoardLogger(run.directory, name="tensorboard", version="")
    except ModuleNotFoundError as error:
        raise UserError('logger=tensorboard needs pip install "crescendo[tensorboard]".') from error


def begin_loggers(loggers: Sequence[Logger], file: MetricsFile) -> None:
    """Tell W&B's run with which row of metrics.csv the training begins, or goes on."""
    for logger in loggers:
        if isinstance(logger, WandbRun):
            logger.go_on(file)


def show_test(
    loggers: Sequence[Logger],
    classifier: ImageClassifier,
    test: AddressedDataset,
    names: Sequence[str],
    resolution: int,
) -> None:
    """Have W&B's run show the test: confusions, classes, worst mistakes and what the net looked at."""
    for logger in loggers:
        if isinstance(logger, WandbRun) and not logger.lost:
            logger.results = show(classifier, test, names, resolution)


def finish_loggers(loggers: Sequence[Logger], error: BaseException | None, *, pruned: bool = False) -> None:
    """Close W&B's run, as failed where it is; else the next run of this process would write into it.

    Args:
        error: what ends the run before its time.
    """
    ending: Ending = "pruned" if pruned else "finished"
    if error is not None:
        ending = "interrupted" if isinstance(error, Interrupted | KeyboardInterrupt) else "failed"
    for logger in loggers:
        if isinstance(logger, WandbRun):
            logger.finish(ending, None if error is None else str(error) or type(error).__name__)


class ProgressBar(RichProgressBar):
    """Lightning's rich bar, showing stage, resolution, loss, accuracy and images per second."""

    def __init__(self, refresh_rate: int = 5) -> None:
        theme = RichProgressBarTheme(metrics_format=".3f")
        super().__init__(refresh_rate=refresh_rate, leave=False, theme=theme)

    @property
    def is_enabled(self) -> bool:
        """Only on a terminal: a log file gets the epochs' lines."""
        return super().is_enabled and get_console().is_terminal

    def _get_train_description(self, current_epoch: int) -> str:
        return f"Epoch {current_epoch + 1}/{self.trainer.max_epochs}"  # from 1, as in our messages

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        if not isinstance(pl_module, ImageClassifier):
            return {}
        callbacks = trainer.callbacks  # type: ignore[attr-defined]  # set by Lightning's connector
        steps = next((callback for callback in callbacks if isinstance(callback, StepMetrics)), None)
        if steps is None or not steps.shown:
            return {}
        return {
            "stage": f"{pl_module.stage.index + 1}/{len(steps.curriculum.plan)}",
            "px": str(pl_module.stage.resolution),
            "loss": steps.shown["loss"],
            "accuracy": steps.shown["accuracy"],
            "images/s": f"{steps.shown['speed']:.0f}",
        }
