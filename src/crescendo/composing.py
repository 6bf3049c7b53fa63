"""The configuration that train.py would compose, for a verb that takes the same overrides."""

from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

import crescendo
from crescendo.config import validate
from crescendo.errors import UserError, did_you_mean

ABSENT = object()


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


def with_data(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """A run's configuration with other test images.

    Args:
        overrides: of its data, such as root=<directory> or num_workers=4; data=<option> takes one of the
            project's data sets, with what the net was trained for: classes, channels, mean and deviation.

    Raises:
        UserError: there is no such setting or option, or the data set has other classes or channels.
    """
    typed = dict(override.partition("=")[::2] for override in overrides)
    bare = [override for override in overrides if "=" not in override]
    if bare:
        raise UserError(f"--data {bare[0]}: write key=value, such as root=<directory> or data=<option>.")
    option = typed.pop("data", None)
    settings = {key.removeprefix("data."): value for key, value in typed.items()}
    changed = config.copy()
    if option is not None:
        others = [f"data.{key}={value}" for key, value in settings.items()]
        data = compose_config([f"data={option}", *others], find_config_directory()).data
        for key in ("num_classes", "in_channels"):
            if data[key] != config.data[key]:
                raise UserError(
                    f"--data data={option} has data.{key}={data[key]}, the run was trained with "
                    f"{config.data[key]}."
                )
        changed.data = OmegaConf.create(OmegaConf.to_container(data, resolve=True))
        changed.data.mean, changed.data.std = config.data.mean, config.data.std
        return changed
    for key, value in settings.items():
        if OmegaConf.select(config.data, key, default=ABSENT) is ABSENT:
            known = [str(name) for name in config.data]
            near = did_you_mean(key.partition(".")[0], known)
            raise UserError(
                f"--data {key}: the run's data has no such setting.{near} It has {', '.join(known)}."
            )
        plain = OmegaConf.from_dotlist([f"value={value}"]).value
        OmegaConf.update(changed.data, key, plain)
        if key in changed.data.source:  # resolved: it does not follow data.<key> any more
            OmegaConf.update(changed.data.source, key, plain)
    return changed
