"""The regularization strengths ("knobs"): what may rise, within which bounds, and who applies each.

dropout and drop path belong to layers of the net, RandAugment to the data, the other knobs to the
classifier, which acts on batches and targets. Off means off: a knob at 0 takes no random number and
changes no bit.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal

from torch import nn

from crescendo.curriculum.schedule import Ramp
from crescendo.errors import UserError
from crescendo.models import layers

Strength = float | Ramp | Mapping[str, float]


@dataclass(frozen=True)
class Regularization:
    """Each knob is a number, or a range that rises from `start` to `end` over the curriculum's stages.

    Attributes:
        dropout: rate of the head's last dropout, in [0, 1); "published" is the rate of the net's paper.
        drop_path: rate of the deepest residual block (stochastic depth, Huang et al. 2016,
            arXiv:1603.09382), falling over depth by each family's rule; or "published".
        randaugment: magnitude of RandAugment (Cubuk et al. 2019, arXiv:1909.13719) on the scale of
            Google's code, where 10 is the full strength.
        random_erasing: probability that an image loses a rectangle (Zhong et al. 2017, arXiv:1708.04896).
        mixup: alpha of Beta(alpha, alpha) (Zhang et al. 2017, arXiv:1710.09412).
        cutmix: alpha of Beta(alpha, alpha) (Yun et al. 2019, arXiv:1905.04899).
        label_smoothing: share of the target spread over all classes (Szegedy et al. 2015, arXiv:1512.00567).

    Raises:
        UserError: a strength outside its bounds.
    """

    dropout: Strength | Literal["published"] = 0.0
    drop_path: Strength | Literal["published"] = 0.0
    randaugment: Strength = 0.0
    random_erasing: Strength = 0.0
    mixup: Strength = 0.0
    cutmix: Strength = 0.0
    label_smoothing: Strength = 0.0

    def __post_init__(self) -> None:
        for knob in fields(self):
            strength = getattr(self, knob.name)
            if strength == "published" and knob.name in ("dropout", "drop_path"):
                continue
            ramp = Ramp.of(strength)
            object.__setattr__(self, knob.name, ramp)
            below_one = knob.name not in ("randaugment", "mixup", "cutmix")
            for value in (ramp.start, ramp.end):
                if not 0 <= value < (1 if below_one else math.inf):
                    bounds = "at least 0 and below 1" if below_one else "a number, 0 or more"
                    raise UserError(f"regularization.{knob.name}={value:g}: must be {bounds}.")

    def ramps(self, net: nn.Module) -> dict[str, Ramp]:
        """The knobs that apply to `net`, each as a ramp; `published` is looked up in the net."""
        published = {
            "dropout": layers.published_dropout(net),
            "drop_path": layers.published_drop_path(net),
        }
        ramps = {}
        for knob in fields(self):
            strength = getattr(self, knob.name)
            if knob.name in published and published[knob.name] is None:
                strength = 0.0
            elif strength == "published":
                strength = published[knob.name]
            ramps[knob.name] = Ramp.of(strength)
        return ramps

    def not_applied(self, net: nn.Module, without: Sequence[type[nn.Module]] = ()) -> list[str]:
        """The knobs that are not off and that `net` has no layer for, or none that runs in training.

        Args:
            without: kinds of layers that training keeps in eval mode.
        """
        published = {"dropout": layers.published_dropout(net), "drop_path": layers.published_drop_path(net)}
        idle = {"dropout": layers.Dropout in without, "drop_path": layers.DropPath in without}
        names = []
        for name, rate in published.items():
            strength = getattr(self, name)
            off = not rate if strength == "published" else strength == Ramp(0.0, 0.0)
            if not off and (rate is None or idle[name]):
                names.append(name)
        return names


def apply_to_net(net: nn.Module, knobs: Mapping[str, float]) -> None:
    """Set the rates of the net's own dropout and drop path layers to a stage's values."""
    layers.set_dropout(net, knobs.get("dropout", 0.0))
    layers.set_drop_path(net, knobs.get("drop_path", 0.0))
