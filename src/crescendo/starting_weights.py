"""What a net starts from: a file, a torchvision name, or an earlier run with what is on record of it."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from crescendo.config import typed_settings
from crescendo.errors import UserError
from crescendo.models.layers import Net
from crescendo.models.weights import ENUM, LoadedWeights, load_weights, torchvision_normalisation
from crescendo.runs import best_checkpoint, read_config
from crescendo.scaling.coefficients import AXES, Scaling

log = logging.getLogger(__name__)


def run_of(weights: str) -> Path | None:
    """The run that weights are of: its directory, or a checkpoint in it; None for others."""
    path = Path(weights).expanduser()
    directory = path if path.is_dir() else path.parent.parent
    is_run = (directory / "config.yaml").is_file() and (path.is_dir() or path.parent.name == "checkpoints")
    return directory if is_run else None


def load_starting_weights(net: Net, weights: str, *, fresh_head: bool = False) -> LoadedWeights:
    """Fill a net (crescendo.models.load_weights); from a run, its best checkpoint as evaluation sees it.

    Raises:
        UserError: they cannot be read, do not fit, or are of a run that has no checkpoint.
    """
    run, path = run_of(weights), Path(weights).expanduser()
    source = str(best_checkpoint(run)) if run is not None and path.is_dir() else weights
    return load_weights(net, source, fresh_head=fresh_head)


def class_names_of(weights: str) -> list[str] | None:
    """The classes that the weights' head tells apart, by label, where they are of a run; else None."""
    run = run_of(weights)
    names = read_config(run).data.get("class_names") if run is not None else None
    return [str(name) for name in names] if names else None


def follow_weights(config: DictConfig, overrides: Sequence[str]) -> None:
    """Normalise images as those were that the weights are of, unless it was typed.

    Known of runs and of torchvision's names. A run's channels have to be those here, and for fine-tuning its
    net, too.

    Raises:
        UserError: they are others; the message has the overrides to paste.
    """
    weights = config.weights
    if weights is None:
        return
    is_fine_tuned = config.get("finetuning", {}).get("method", "none") != "none"
    run = run_of(weights)
    if run is not None:
        theirs = read_config(run)
        if is_fine_tuned:
            _check_net(config, theirs, run)
        _check_channels(config, theirs, run)
        mean, std = theirs.data.mean, theirs.data.std
    elif ENUM.fullmatch(weights):
        if config.data.in_channels != 3:
            raise UserError(
                f"weights={weights} are of 3 channels, data.in_channels={config.data.in_channels}: add "
                f"data.in_channels=3 where the data can be read so, with data.mean and data.std of 3 values."
            )
        mean, std = torchvision_normalisation(weights)
    else:
        return
    typed = typed_settings(overrides)
    for key, value in (("mean", mean), ("std", std)):
        now = [round(float(each), 6) for each in value]
        if f"data.{key}" not in typed and list(config.data[key]) != now:
            log.info("data.%s=%s, as the weights were trained; it was %s", key, now, list(config.data[key]))
            config.data[key] = now


def _check_net(config: DictConfig, theirs: DictConfig, run: Path) -> None:
    if theirs.model.get("_target_") != config.model.get("_target_"):
        ours, their_net = (_name(each) for each in (config, theirs))
        raise UserError(
            f"weights={run} is a run of {their_net}, and the net is {ours}: add model={their_net}."
        )
    differing = [
        f"model.{key}={value}"
        for key, value in theirs.model.items()
        if key not in ("_target_", "num_classes", "in_channels") and config.model.get(key) != value
    ]
    if differing:
        raise UserError(f"weights={run} is a run of another {_name(config)}: add {' '.join(differing)}")
    ours, their_scaling = _scaling(config), _scaling(theirs)
    if (ours.factors.depth, ours.factors.width) != (their_scaling.factors.depth, their_scaling.factors.width):
        raise UserError(
            f"weights={run} is a run of {_name(config)} as deep and wide as its scaling made it: add "
            f"{' '.join(_overrides(their_scaling))}"
        )


def _check_channels(config: DictConfig, theirs: DictConfig, run: Path) -> None:
    channels = theirs.data.in_channels
    if channels != config.data.in_channels:
        mean, std = (",".join(f"{value:g}" for value in theirs.data[key]) for key in ("mean", "std"))
        raise UserError(
            f"weights={run} is a run on {channels} channels, data.in_channels={config.data.in_channels}: add "
            f"data.in_channels={channels} data.mean=[{mean}] data.std=[{std}]"
        )


def _scaling(config: DictConfig) -> Scaling:
    """None in the configuration of a run from before there was one."""
    values: Any = OmegaConf.to_container(config.scaling, resolve=True) if "scaling" in config else {}
    return Scaling(**values)


def _overrides(scaling: Scaling) -> list[str]:
    used = [name for name, axis in AXES.items() if scaling.method in (axis, "compound")]
    numbers = ["phi", *used] if scaling.method != "none" else []
    return [
        f"scaling={scaling.method}",
        *(f"scaling.{name}={getattr(scaling, name):g}" for name in numbers),
    ]


def _name(config: DictConfig) -> Any:
    return str(config.model.get("_target_")).rpartition(".")[2]
