"""Checkpoints: when they are written, that they are whole, and which of them a run goes on from.

checkpoints/ of a run directory:
  best.ckpt       of the best validation
  last.ckpt       the newest state, at an optimizer step: what a run goes on from
  previous.ckpt   the last.ckpt before it, should that be damaged
"""

import logging
import os
import time
import zipfile
import zlib
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from crescendo.errors import UserError
from crescendo.runs import best_checkpoint
from crescendo.storage import sync_directory

FORMAT = 1  # of what a training goes on from; another one is another version's
LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
RUNNING_EVALUATION = {
    "ready": 1,
    "started": 1,
    "processed": 0,
    "completed": 0,
}  # Lightning's, at its first batch

log = logging.getLogger(__name__)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; plain tensors and containers alone, nothing of it is executed.

    torch writes a zip archive with a checksum (CRC-32) of each tensor, and does not look at it when it
    reads. So it is held against the file here, first.

    Raises:
        UserError: it is damaged, or no checkpoint of ours.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise UserError(f"{path} is damaged: the checksum of {damaged} in it does not hold.")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except (
        OSError,
        RuntimeError,  # and NotImplementedError
        UnpicklingError,
        EOFError,
        ValueError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise UserError(f"{path} is not a checkpoint that can be read: {_first_line(error)}") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise UserError(f"{path} is not a checkpoint of a crescendo run: it has no state_dict.")
    return checkpoint


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def clean_partials(run: Path) -> None:
    """Delete what a kill left half written in a run directory."""
    for partial in (*run.glob(".*.partial"), *(run / "checkpoints").glob(".*.partial")):
        partial.unlink()


def has_checkpoint(run: Path) -> bool:
    """Whether a run has one to go on from, whole or not."""
    return any((run / "checkpoints" / name).is_file() for name in (LAST, PREVIOUS, BEST))


def find_checkpoint(run: Path) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint that a run goes on from, and what it holds: the newest that is whole; None without any.

    A damaged one is reported, and kept beside as <name>.damaged.

    Raises:
        UserError: there are some, and all are damaged.
    """
    damaged = []
    for name in (LAST, PREVIOUS, BEST):
        path = run / "checkpoints" / name
        if not path.is_file():
            continue
        try:
            checkpoint = load_checkpoint(path)
        except UserError as error:
            damaged.append(path)
            log.warning("%s", error)
            continue
        if checkpoint.get("format") != FORMAT:
            raise UserError(
                f"{path} was written by another version of crescendo: resume the run with that one "
                f"(git_revision in its summary.json), or use it as it is with crescendo evaluate."
            )
        for other in damaged:
            _put_aside(other)
        if damaged:
            log.warning("the run goes on from %s, written at step %d", path, checkpoint["global_step"])
        return path, checkpoint
    if damaged:
        raise UserError(f"no checkpoint of {run} can be read: {', '.join(path.name for path in damaged)}.")
    return None


def load_best(run: Path) -> dict[str, Any]:
    """What the run's test is of: best.ckpt, or last.ckpt where that is damaged, with a warning.

    Raises:
        UserError: neither can be read.
    """
    best = best_checkpoint(run)
    try:
        return load_checkpoint(best)
    except UserError as error:
        last = best.with_name(LAST)
        if best.name == LAST or not last.is_file():
            raise
        log.warning("%s The run is tested with %s.", error, last)
        return load_checkpoint(last)


@rank_zero_only
def _put_aside(damaged: Path) -> None:
    """So that it does not take the place of the one before it."""
    damaged.replace(damaged.with_name(f"{damaged.name}.damaged"))


class BestCheckpoint(ModelCheckpoint):
    """best.ckpt, last.ckpt and previous.ckpt in the run directory's checkpoints/.

    last.ckpt is written at the end of every epoch, and inside it as often as is asked for. Unlike its
    base, a tie goes to the later epoch: on a small validation set ties are common, and the later weights
    have seen more, at a higher resolution.

    Args:
        monitor: metric of the validation that the best checkpoint has.
        mode: "max" or "min" of it.
        every_n_steps: optimizer steps between two last.ckpt inside an epoch; None writes none there.
        every_n_minutes: minutes without one, on any device's process.
    """

    def __init__(
        self,
        monitor: str = "val/accuracy",
        mode: str = "max",
        every_n_steps: PositiveInt | None = None,
        every_n_minutes: PositiveFloat | None = None,
    ) -> None:
        super().__init__(
            filename="best",
            monitor=monitor,
            mode=mode,
            save_top_k=1,
            save_last=True,
            enable_version_counter=False,
            auto_insert_metric_name=False,
        )
        self.every_n_steps, self.every_n_minutes = every_n_steps, every_n_minutes
        self._steps, self._saved_at = 0, time.monotonic()
        self._inside_validation = False

    @property
    def state_key(self) -> str:
        """The same whatever the arguments are: how often is saved may change on resume."""
        return type(self).__name__

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The run directory may have been moved meanwhile."""
        assert self.dirpath is not None

        def here(path: str) -> str:
            return str(Path(self.dirpath or "") / Path(path).name) if path else ""

        paths = {
            key: here(state_dict[key])
            for key in ("best_model_path", "kth_best_model_path", "last_model_path")
        }
        best = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict(state_dict | paths | {"dirpath": self.dirpath, "best_k_models": best})

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._steps, self._saved_at = trainer.global_step, time.monotonic()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save inside an epoch, at an optimizer step. The last step's turn comes after the validation."""
        stepped, self._steps = trainer.global_step != self._steps, trainer.global_step
        if stepped and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch and self._is_due(trainer):
            self.save_now(trainer)

    def _is_due(self, trainer: L.Trainer) -> bool:
        if self.every_n_steps is not None and self._steps % self.every_n_steps == 0:
            return True
        if self.every_n_minutes is None:
            return False
        due = time.monotonic() - self._saved_at >= 60 * self.every_n_minutes
        return bool(trainer.strategy.reduce_boolean_decision(due, all=False))

    def save_now(self, trainer: L.Trainer, *, inside_validation: bool = False) -> None:
        """Write last.ckpt now.

        Args:
            inside_validation: the epoch's batches are done, its validation is not: who goes on from here
                begins with the validation.
        """
        self._inside_validation = inside_validation
        self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
        self._inside_validation = False

    def _save_last_checkpoint(self, trainer: L.Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        super()._save_last_checkpoint(trainer, monitor_candidates)
        self._saved_at = time.monotonic()

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["format"] = FORMAT
        checkpoint["should_stop"] = trainer.should_stop  # EarlyStopping has decided by now
        if self._inside_validation:  # Lightning goes on from a validation's first batch, as if it had run
            checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"] = {
                "total": dict(RUNNING_EVALUATION),
                "current": dict(RUNNING_EVALUATION),
                "is_last_batch": False,
            }

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """A training that had stopped early has nothing left but its test."""
        trainer.should_stop = checkpoint["should_stop"]

    def check_monitor_top_k(self, trainer: L.Trainer, current: Tensor | None = None) -> bool:
        best = self.best_k_models.get(self.kth_best_model_path)
        if current is not None and best is not None and bool(current == best):
            return True
        return super().check_monitor_top_k(trainer, current)

    def _save_topk_checkpoint(self, trainer: L.Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        """Lightning writes last.ckpt only after a new best; ours is the last epoch's, best or not."""
        super()._save_topk_checkpoint(trainer, monitor_candidates)
        self._last_global_step_saved = trainer.global_step

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """An epoch that was not validated leaves its weights, too."""
        super().on_train_epoch_end(trainer, pl_module)
        if self._last_global_step_saved != trainer.global_step:
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, flushes to the disk, then renames: a kill leaves the old file or the new.

    Lightning's own writes to $TMPDIR and moves, which on another file system is a copy that a kill cuts.
    A last.ckpt becomes previous.ckpt when the next one is whole.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        if storage_options is not None:
            raise ValueError(f"storage_options={storage_options!r}: a run directory is a local one")
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        try:
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            if target.name == LAST and target.exists():
                target.replace(target.with_name(PREVIOUS))
            partial.replace(target)
            sync_directory(target.parent)
        except RuntimeError as error:
            partial.unlink(missing_ok=True)
            if isinstance(error.__context__, OSError):  # torch's writer hides that the disk is full
                raise error.__context__ from error
            raise
        except BaseException:
            partial.unlink(missing_ok=True)  # a full disk should not stay full
            raise
