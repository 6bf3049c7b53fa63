"""What several tests need: composed configurations, a small folder of images."""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from commands import REPOSITORY, only_run, train
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict
from PIL import Image

# Before torch is imported: each test process has a core of its own, which threads that wait would take.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The directory of a whole run with these overrides; each is run once."""

    @cache
    def run(*overrides: str) -> Path:
        place = tmp_path_factory.mktemp("whole")
        process = train(*overrides, cwd=place)
        assert process.returncode == 0, process.stderr
        return only_run(place)

    return run
