"""The command line as the tests drive it."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from forking import server

REPOSITORY = Path(__file__).parents[1]

# A training of seconds: four batches an epoch, two stages.
TINY = (
    "data=synthetic",
    "data.source.samples=160",
    "data.batch_size=32",
    "model=lenet5_modern",
    "curriculum.stages=2",
    "curriculum.resolution.start=28",
    "curriculum.multiple_of=4",
    "trainer=cpu",
    "trainer.max_epochs=2",
    "trainer.log_every_n_steps=2",
)


SECONDS = 300  # that a command may take


def command(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the project in a subprocess, in a home without a W&B account.

    What brings no environment of its own is forked from a process that has imported torch before; not
    beside a GPU, which forked processes cannot use.
    """
    import torch  # after conftest.py has set its threads

    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    with tempfile.TemporaryDirectory() as home:
        everything = kept | {"HOME": home, "OMP_NUM_THREADS": "1", **environment}
        is_ours = arguments[0].endswith(".py") or arguments[:2] == ("-m", "crescendo.cli")
        if environment or torch.cuda.is_available() or not is_ours:
            return subprocess.run(
                [sys.executable, *arguments],
                cwd=cwd,
                env=everything,
                capture_output=True,
                text=True,
                timeout=SECONDS,
            )
        out = Path(home)
        status = server().run(arguments, cwd, everything, out, SECONDS)
        told = [(out / name).read_text() for name in ("stdout", "stderr")]
    return subprocess.CompletedProcess(list(arguments), status, *told)


def train(*overrides: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """python train.py <overrides>, from any directory."""
    return command(str(REPOSITORY / "train.py"), *overrides, cwd=cwd, **environment)


def crescendo(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """crescendo <arguments>."""
    return command("-m", "crescendo.cli", *arguments, cwd=cwd)


def only_run(place: Path) -> Path:
    """The one run directory below `place`."""
    (config,) = place.rglob("config.yaml")
    return config.parent
