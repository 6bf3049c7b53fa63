"""python poisoned.py BATCH OVERRIDES...: train, with images that are no numbers in that batch of epoch 2."""

import runpy
import sys

from commands import REPOSITORY

from crescendo.classifier import ImageClassifier

batch = int(sys.argv.pop(1))
normalise = ImageClassifier.normalise


def poisoned(self, images):
    normal = normalise(self, images)
    place = (self.current_epoch, self.trainer.fit_loop.epoch_loop.batch_idx)
    return normal * float("nan") if self.training and place == (1, batch) else normal


ImageClassifier.normalise = poisoned
sys.argv[0] = str(REPOSITORY / "train.py")
runpy.run_path(sys.argv[0], run_name="__main__")
