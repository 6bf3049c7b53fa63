"""python without_wandb.py SIGNAL OVERRIDES...: train, and send W&B's service a signal in the second epoch."""

import os
import runpy
import signal
import subprocess
import sys

from commands import REPOSITORY

from crescendo.classifier import ImageClassifier
from crescendo.wandb_run import logger

number = signal.Signals[sys.argv.pop(1)]
logger.FINISH_SECONDS = 2.0
step = ImageClassifier.training_step


def lonely(self, batch, batch_idx):
    if (self.current_epoch, batch_idx) == (1, 0):
        own = ["pgrep", "-P", str(os.getpid()), "-f", "wandb-core"]
        for service in subprocess.run(own, capture_output=True, text=True, check=True).stdout.split():
            os.kill(int(service), number)
    return step(self, batch, batch_idx)


ImageClassifier.training_step = lonely
sys.argv[0] = str(REPOSITORY / "train.py")
runpy.run_path(sys.argv[0], run_name="__main__")
