"""python scarce.py FREE OVERRIDES...: train where so many MiB are free: one number for each rank.

On CPUs that is what the training is told, on a GPU what its process may take.
"""

import os
import runpy
import sys

import torch
from commands import REPOSITORY

from crescendo import batch_size

rooms = [int(room) * 2**20 for room in sys.argv.pop(1).split(",")]
if "trainer=cpu" in sys.argv:
    batch_size.free_memory = lambda device: len(rooms) * rooms[int(os.environ.get("LOCAL_RANK", 0))]
else:
    torch.cuda.set_per_process_memory_fraction(rooms[0] / torch.cuda.mem_get_info()[1])
sys.argv[0] = str(REPOSITORY / "train.py")
runpy.run_path(sys.argv[0], run_name="__main__")
