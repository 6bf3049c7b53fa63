"""What the training of a trial tells its study after each validation, and whether it is given up."""

from pathlib import Path

import lightning as L

from crescendo.classifier import ImageClassifier
from crescendo.runs import Run


def is_trial(run: Path) -> bool:
    """Whether a run directory is that of a study's trial."""
    return run.name.isdecimal() and (run.parent / "study.db").is_file()


class TrialPruning(L.Callback):
    """Ends the training on all ranks, after an epoch, where the study's pruner gives it up.

    Rank 0 alone opens the study. The last epoch is never given up: there is nothing to save any more.
    """

    def __init__(self, run: Run) -> None:
        self.run = run

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        from crescendo.sweeps.study import Study  # needs Optuna

        if trainer.is_global_zero:
            self.study = Study.read(self.run.directory.parent)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """By now the epoch is validated, and its checkpoint written."""
        assert isinstance(pl_module, ImageClassifier)
        if not pl_module.validation:
            return
        hopeless = False
        if trainer.is_global_zero:
            settings = self.study.settings
            value = settings.value(pl_module.validation[settings.metric], self.run.summary)
            if value is not None:  # else a step was to be measured, and none was yet
                hopeless = self.study.hopeless(int(self.run.directory.name), trainer.current_epoch, value)
        last = trainer.current_epoch + 1 == trainer.max_epochs
        if trainer.strategy.broadcast(hopeless) and not last:
            self.run.pruned = trainer.should_stop = True
