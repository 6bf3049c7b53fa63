"""python draws.py OVERRIDES...: train, and write down what each training step saw, in draws.jsonl.

Which images, at which resolution, rates of dropout and drop path, RandAugment's magnitude (it is written
into a corner of the images), and alphas of mixup and cutmix.
"""

import json
import os
import runpy
import sys

from commands import REPOSITORY

from crescendo import mixing
from crescendo.classifier import ImageClassifier
from crescendo.data import randaugment
from crescendo.models.layers import Dropout, DropPath

step, mix, augment = ImageClassifier.training_step, mixing.mix, randaugment.rand_augment
alphas = []


def noting(images, labels, mixup, cutmix):
    alphas[:] = mixup, cutmix
    return mix(images, labels, mixup, cutmix)


def marked(images, numbers, magnitude):
    images = augment(images, numbers, magnitude).clone()
    images[:, :, 0, 0] = round(10 * magnitude)
    return images


def rate(net, kind):
    """Of the last layer of its kind, as the buffer holds it that the layer reads."""
    layers = [layer for layer in net.modules() if isinstance(layer, kind)]
    return float(layers[-1].probability) / layers[-1].share if layers else 0.0


def seen(self, batch, batch_idx):
    loss = step(self, batch, batch_idx)
    line = {
        "epoch": self.current_epoch,
        "batch": batch_idx,
        "rank": self.global_rank,
        "indices": batch.indices.tolist(),
        "stage": [
            batch.images.shape[-1],
            rate(self.net, Dropout),
            rate(self.net, DropPath),
            batch.images[:, :, 0, 0].unique().tolist()[-1] / 10,
            *alphas,
        ],
    }
    with open("draws.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")
    return loss


mixing.mix, randaugment.rand_augment = noting, marked
ImageClassifier.training_step = seen
sys.argv[0] = str(REPOSITORY / "train.py")
os.environ.setdefault("OMP_NUM_THREADS", "1")
runpy.run_path(sys.argv[0], run_name="__main__")
