"""What several tests need: composed configurations, the command line, a small folder of images."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict
from PIL import Image

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


@pytest.fixture
def configuration() -> Callable[..., DictConfig]:
    """Composes conf/train.yaml with overrides, as the command line would."""

    def composed(*overrides: str) -> DictConfig:
        with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
            config = compose("train", list(overrides), return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        with open_dict(config):
            del config["hydra"]
        return config

    return composed


def command(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the project in a subprocess, without a W&B account."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=kept | {"HOME": str(cwd), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


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


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Three classes of 12 photographs each, told apart by their brightness, of different sizes."""
    rng = np.random.default_rng(0)
    root = tmp_path / "photos"
    for name, level in (("dark", 40), ("grey", 128), ("light", 215)):
        (root / name).mkdir(parents=True)
        for index in range(12):
            pixels = rng.normal(level, 20, (40 + index, 64 - index, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.{'png' if index % 2 else 'jpg'}")
    return root
