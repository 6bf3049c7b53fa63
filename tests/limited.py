"""python limited.py BYTES OVERRIDES...: train where no file can grow beyond that, as on a full disk."""

import resource
import runpy
import signal
import sys

from commands import REPOSITORY

limit = int(sys.argv.pop(1))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write fails, and does not kill
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
sys.argv[0] = str(REPOSITORY / "train.py")
runpy.run_path(sys.argv[0], run_name="__main__")
