"""python draws.py OVERRIDES...: train, and write down which images each training step saw, in draws.jsonl."""

import json
import os
import runpy
import sys

from commands import REPOSITORY

from crescendo.classifier import ImageClassifier

step = ImageClassifier.training_step


def seen(self, batch, batch_idx):
    place = {"epoch": self.current_epoch, "batch": batch_idx, "rank": self.global_rank}
    line = json.dumps(place | {"indices": batch.indices.tolist()}) + "\n"
    with open("draws.jsonl", "a") as file:
        file.write(line)
    return step(self, batch, batch_idx)


ImageClassifier.training_step = seen
sys.argv[0] = str(REPOSITORY / "train.py")
os.environ.setdefault("OMP_NUM_THREADS", "1")
runpy.run_path(sys.argv[0], run_name="__main__")
