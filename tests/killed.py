"""python killed.py STEP OVERRIDES...: train, and die by SIGKILL once that step's checkpoint is written."""

import os
import runpy
import signal
import sys

from commands import REPOSITORY

from crescendo.checkpoints import AtomicCheckpointIO

step = int(sys.argv.pop(1))
write = AtomicCheckpointIO.save_checkpoint


def write_and_die(self, checkpoint, path, storage_options=None):
    write(self, checkpoint, path, storage_options)
    if checkpoint["global_step"] == step and str(path).endswith("last.ckpt"):
        os.kill(os.getpid(), signal.SIGKILL)


AtomicCheckpointIO.save_checkpoint = write_and_die
sys.argv[0] = str(REPOSITORY / "train.py")
runpy.run_path(sys.argv[0], run_name="__main__")
