"""python without_room.py OVERRIDES...: train, on a disk that is full once the test is done."""

import errno
import runpy
import sys

from commands import REPOSITORY

from crescendo import training


def full(directory, answers):
    raise OSError(errno.ENOSPC, "No space left on device", str(directory / "predictions.csv"))


training.write_answers = full
sys.argv[0] = str(REPOSITORY / "train.py")
runpy.run_path(sys.argv[0], run_name="__main__")
