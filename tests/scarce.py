"""python scarce.py FREE OVERRIDES...: train where so many MiB are free: one number for each rank."""

import os
import runpy
import sys

from commands import REPOSITORY

from crescendo import batch_size

rooms = [int(room) * 2**20 for room in sys.argv.pop(1).split(",")]
batch_size.free_memory = lambda device: len(rooms) * rooms[int(os.environ.get("LOCAL_RANK", 0))]
sys.argv[0] = str(REPOSITORY / "train.py")
runpy.run_path(sys.argv[0], run_name="__main__")
