"""The configuration that train.py would compose, for a verb that takes the same overrides."""

from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

import crescendo
from crescendo.config import validate
from crescendo.errors import UserError


def find_config_directory(given: Path | None = None) -> Path:
    """The directory with train.yaml: the one that is given; else conf/ of the working directory or of one
    above it; else that of the checkout that crescendo is installed from (pip install -e).

    Raises:
        UserError: there is none.
    """
    if given is not None:
        if not (given / "train.yaml").is_file():
            raise UserError(f"--config-dir {given} has no train.yaml: give the project's conf directory.")
        return given.absolute()
    here, source = Path.cwd(), Path(crescendo.__file__).parents[2]
    for place in (here, *here.parents, source):
        if (place / "conf" / "train.yaml").is_file() and (place / "train.py").is_file():
            return place / "conf"
    raise UserError(
        f"no project in {here} or above it: there is no train.py beside conf/train.yaml. Change to the "
        f"project's directory, or add --config-dir <project>/conf."
    )


def compose_config(overrides: Sequence[str], directory: Path) -> DictConfig:
    """What `python train.py <overrides>` composes with the conf/ in `directory`, validated.

    Raises:
        UserError: a setting is wrong.
    """
    with initialize_config_dir(str(directory), version_base="1.3"):
        config = compose("train", list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    validate(config)
    return config
