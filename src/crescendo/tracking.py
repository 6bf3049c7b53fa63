"""What is seen of a training: messages, the progress bar, TensorBoard, the end of W&B."""

import logging
import sys
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from rich import get_console
from rich.logging import RichHandler

from crescendo.classifier import ImageClassifier
from crescendo.errors import UserError
from crescendo.runs import TRACEBACK_LOGGER, Run
from crescendo.step_metrics import StepMetrics
from crescendo.wandb_run import WandbRun

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


def finish_loggers(loggers: Sequence[Logger], *, failed: bool) -> None:
    """Close W&B's run, as failed where it is; else the next run of this process would write into it."""
    for logger in loggers:
        if isinstance(logger, WandbRun):
            logger.finish(failed=failed)


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


def peak_memory_bytes() -> int:
    """The peak of the device's allocator where there is a GPU, else of the process's resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    import resource  # POSIX alone

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
