"""Checkpoints: when they are written, and that they are whole."""

import os
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from crescendo.errors import UserError


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; plain tensors and containers alone, nothing of it is executed.

    Raises:
        UserError: it is damaged, or no checkpoint of ours.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, UnpicklingError, EOFError, ValueError) as error:
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


class BestCheckpoint(ModelCheckpoint):
    """best.ckpt and last.ckpt in the run directory's checkpoints/.

    Unlike its base, a tie goes to the later epoch: on a small validation set ties are common, and the
    later weights have seen more, at a higher resolution.
    """

    def __init__(self, monitor: str = "val/accuracy", mode: str = "max") -> None:
        super().__init__(
            filename="best",
            monitor=monitor,
            mode=mode,
            save_top_k=1,
            save_last=True,
            enable_version_counter=False,
            auto_insert_metric_name=False,
        )

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
            partial.replace(target)
        except BaseException:
            partial.unlink(missing_ok=True)  # a full disk should not stay full
            raise
