"""How long a training step takes on the device that trains: step_seconds in summary.json."""

from statistics import median
from typing import Any, cast

import lightning as L

from crescendo.classifier import ImageClassifier
from crescendo.devices import now
from crescendo.probe import FIRST_STEPS, MEASURED_STEPS
from crescendo.runs import Run


class StepTime(L.Callback):
    """Times ten optimizer steps of each epoch, behind its first three, each between two synchronisations.

    From a batch that is on the device to the weights that it changed, without loading. The summary has the
    median over what was measured at the newest resolution: at the end, the last stage's. Other steps wait
    for nothing.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._resolution, self._begun = 0, 0.0
        self._seconds: list[float] = []

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._is_measured(trainer, batch_idx) and batch_idx % trainer.accumulate_grad_batches == 0:
            self._begun = now(pl_module.device)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        ended = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if not ended or not self._begun or not self._is_measured(trainer, batch_idx):
            return
        resolution = cast(ImageClassifier, pl_module).stage.resolution
        if resolution != self._resolution:
            self._resolution, self._seconds = resolution, []
        self._seconds.append(now(pl_module.device) - self._begun)
        self._begun = 0.0
        self._summarize()

    def state_dict(self) -> dict[str, Any]:
        return {"resolution": self._resolution, "seconds": list(self._seconds)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._resolution, self._seconds = state_dict["resolution"], list(state_dict["seconds"])
        if self._seconds:
            self._summarize()  # the training may be done, and only its test be left

    def _is_measured(self, trainer: L.Trainer, batch_idx: int) -> bool:
        """The first steps start workers and choose kernels; of a shorter epoch the last one counts."""
        parts = trainer.accumulate_grad_batches
        first = min(FIRST_STEPS, int(trainer.num_training_batches) // parts - 1)
        return first <= batch_idx // parts < first + MEASURED_STEPS

    def _summarize(self) -> None:
        self.run.summary["step_seconds"] = round(median(self._seconds), 6)
