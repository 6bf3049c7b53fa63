"""Applies the curriculum's stage to the classifier when an epoch begins."""

import logging

import lightning as L

from crescendo.classifier import ImageClassifier
from crescendo.curriculum.schedule import Curriculum

log = logging.getLogger(__name__)


class CurriculumCallback(L.Callback):
    """Thin on purpose: the schedule is pure, the sampler carries the resolution, the classifier the knobs."""

    def __init__(self, curriculum: Curriculum) -> None:
        self.curriculum = curriculum

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A training that goes on inside an epoch has no on_train_epoch_start for it."""
        assert isinstance(pl_module, ImageClassifier)
        pl_module.enter(self.curriculum.at(trainer.current_epoch), trainer.current_epoch)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, ImageClassifier)
        stage = self.curriculum.at(trainer.current_epoch)
        stages = len(self.curriculum.plan)
        begins = stage.first_epoch == trainer.current_epoch and stages < self.curriculum.epochs
        if begins and trainer.is_global_zero:  # where every epoch is a stage, the epochs' lines say it
            alone = "" if stage.trained == "all" else ", the head and the norms alone"
            log.info("stage %d of %d: %d px%s", stage.index + 1, stages, stage.resolution, alone)
        if trainer.is_global_zero and 0 < trainer.current_epoch == pl_module.finetuning.head_epochs:
            log.info("the head was trained alone: from here on all layers are")
        pl_module.enter(stage, trainer.current_epoch)
