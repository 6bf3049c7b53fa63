"""Progressive learning as a pure function of the epoch.

EfficientNetV2: Smaller Models and Faster Training.  Mingxing Tan, Quoc V. Le, 2021.
arXiv:2104.00298, section 4.2, Algorithm 1: stage i of M trains at resolution
S_0 + (S_e - S_0) * i / (M - 1), each regularizer likewise, and inherits the weights.

Nothing here is stored anywhere: a checkpoint or a worker needs the epoch alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from hashlib import blake2b
from itertools import accumulate
from typing import Literal, Self, cast

from crescendo.errors import UserError

Interpolation = Literal["linear", "geometric"]
Order = Literal["rising", "random"]
Trained = Literal["all", "head", "head_and_norms"]  # a stage: all, or head_and_norms


@dataclass(frozen=True)
class Ramp:
    """A value that goes from `start`, in the first stage, to `end`, in the last."""

    start: float
    end: float

    @classmethod
    def of(cls, value: "float | Ramp | Mapping[str, float]") -> "Ramp":
        """A ramp from a number (constant), a ramp, or a mapping with `start` and `end`."""
        if isinstance(value, Ramp):
            return value
        if isinstance(value, Mapping):
            return cls(**value)
        return cls(value, value)

    @property
    def rises_from_zero(self) -> bool:
        return self.start != self.end and min(self.start, self.end) <= 0

    def at(self, fraction: float, interpolation: Interpolation = "linear") -> float:
        """The value at `fraction` in [0, 1] of the way; both ends are exact."""
        if fraction == 0 or self.start == self.end:
            return self.start
        if fraction == 1:
            return self.end
        if interpolation == "geometric":
            return self.start * (self.end / self.start) ** fraction
        return self.start + (self.end - self.start) * fraction

    def fraction_of(self, value: float, interpolation: Interpolation = "linear") -> float:
        """How far along the way `value` is: the inverse of `at`; a ramp that stays is at its end."""
        if self.start == self.end:
            return 1.0
        if interpolation == "geometric":
            return math.log(value / self.start) / math.log(self.end / self.start)
        return (value - self.start) / (self.end - self.start)


@dataclass(frozen=True)
class Stage:
    """A stretch of epochs with one resolution (px, square) and one value for each knob.

    `trained` is "all" of the net, or "head_and_norms": its last linear layer and its batch norms.
    """

    index: int
    first_epoch: int
    epochs: int
    resolution: int
    knobs: Mapping[str, float] = field(default_factory=dict)
    trained: Trained = "all"


@dataclass(frozen=True)
class Curriculum:
    """The stages of a training of `epochs` epochs.

    Args:
        epochs: length of the training.
        resolution: px; a number stays, a range rises. A range that starts at "auto" starts at half its
            end, or at `smallest` if that is more.
        stages: number of stages; one stage trains at the end values. "every_epoch": each epoch is one.
        split: "even", or the epochs of each stage. A list that does not add up to `epochs` is scaled.
        knobs: regularization strengths, each a ramp.
        multiple_of: what the resolutions between the first and the last are rounded to.
        interpolation: between start and end, of the resolution and of every knob.
        evaluation_resolution: px, for validation and test; None is the last stage's.
        smallest: px that the net takes.
        order: "rising", or "random": each stage draws one of the sizes that the range allows, a function
            of `seed` and the stage's first epoch. The control of Tan & Le 2021 (section 5.3, Table 13).
        adaptive: the knobs follow the stages, and a drawn resolution; False: they stay at their ends.
        max_shapes: the resolution takes at most so many values, while the knobs move in every stage; fixres
            may add one.
        fixres: share of the epochs, one or more, that are added as a last stage at the resolution of
            evaluation, with the knobs at their ends, and that train the head and the batch norms alone.
            Fixing the train-test resolution discrepancy.  Touvron, Vedaldi, Douze, Jegou, 2019.
            arXiv:1906.06423, section 4.
        seed: of the random order.
        exact_ends: the first and the last resolution are those of the range; False: they are rounded, too.

    Raises:
        UserError: fewer epochs than stages, a split of another length, a ramp that cannot be.
    """

    epochs: int
    resolution: Ramp | float | Mapping[str, float | Literal["auto"]]
    stages: int | Literal["every_epoch"] = 1
    split: Sequence[int] | Literal["even"] = "even"
    knobs: Mapping[str, Ramp] = field(default_factory=dict)
    multiple_of: int = 1
    interpolation: Interpolation = "linear"
    evaluation_resolution: int | None = None
    smallest: int = 1
    order: Order = "rising"
    adaptive: bool = True
    max_shapes: int | None = None
    fixres: float = 0.0
    seed: int = 0
    exact_ends: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.resolution, Mapping) and self.resolution["start"] == "auto":
            end = float(self.resolution["end"])
            start = self.multiple_of * round(end / 2 / self.multiple_of)
            object.__setattr__(self, "resolution", Ramp(min(end, max(start, self.smallest)), end))
        if self.evaluation_resolution is None:
            object.__setattr__(self, "evaluation_resolution", round(self.resolution_ramp.end))
        if self.stages != "every_epoch" and self.stages < 1:
            raise UserError(f"curriculum.stages={self.stages}: there is at least one stage.")
        if not 0 <= self.fixres < 1:
            raise UserError(f"curriculum.fixres={self.fixres:g}: must be a share, at least 0 and below 1.")
        if self.max_shapes is not None and self.max_shapes < 1:
            raise UserError(f"curriculum.max_shapes={self.max_shapes}: must be 1 or more, or null.")
        count, last = self._stages, int(self.fixres > 0)
        if self.epochs < count + last:
            fewer = f"stages={self.epochs - last}" if self.epochs > last else "fixres=0"
            raise UserError(
                f"{self.epochs} epochs are too few for {count}{' + 1' * last} stages: each takes at least "
                f"one. Set trainer.max_epochs={count + last} or more, or curriculum.{fewer}."
            )
        if self.split != "even" and (len(self.split) != count or min(self.split) < 1):
            raise UserError(
                f"curriculum.split={list(self.split)} must give the epochs, 1 or more, of each of "
                f"curriculum.stages={self.stages} stages."
            )
        if self.interpolation == "geometric":
            for name, ramp in {"resolution": self.resolution_ramp, **self.knobs}.items():
                if ramp.rises_from_zero:
                    raise UserError(
                        f"{name} goes from {ramp.start:g} to {ramp.end:g}: a geometric ramp cannot "
                        f"start or end at 0. Use curriculum.interpolation=linear."
                    )

    @classmethod
    def of(cls, curriculum: "Curriculum") -> Self:
        """A curriculum as one of this kind, whose stages may be others."""
        return cls(**{each.name: getattr(curriculum, each.name) for each in fields(Curriculum)})

    @property
    def resolution_ramp(self) -> Ramp:
        return Ramp.of(cast(Ramp | float | Mapping[str, float], self.resolution))

    @cached_property
    def plan(self) -> tuple[Stage, ...]:
        """All stages, in order."""
        firsts = self._first_epochs()
        ends = [*firsts[1:], self.epochs - self._fixres_epochs]
        stages = [
            self._stage(index, first, end - first)
            for index, (first, end) in enumerate(zip(firsts, ends, strict=True))
        ]
        if self._fixres_epochs:
            stages.append(self._fixres_stage())
        return tuple(stages)

    @property
    def constant(self) -> Stage:
        """The one stage of curriculum=constant: every epoch at the ends."""
        return Stage(0, 0, self.epochs, self._resolution_at(1), self._knobs_at(1))

    def scaled(self, factor: float) -> "Curriculum":
        """The same with every resolution times `factor`, all of them rounded to `multiple_of`.

        That of a net which is scaled by phi has gamma^phi (Tan & Le 2019, arXiv:1905.11946, section 3.3).
        """
        if factor == 1:
            return self
        assert self.evaluation_resolution is not None
        ramp = self.resolution_ramp
        return replace(
            self,
            resolution=Ramp(ramp.start * factor, ramp.end * factor),
            evaluation_resolution=nearest_multiple(self.evaluation_resolution * factor, self.multiple_of),
            exact_ends=False,
        )

    def at(self, epoch: int) -> Stage:
        """The stage that `epoch` (from 0) belongs to."""
        if not 0 <= epoch < self.epochs:
            raise ValueError(f"epoch {epoch} is outside of a training of {self.epochs} epochs")
        return next(stage for stage in reversed(self.plan) if stage.first_epoch <= epoch)

    @property
    def _fixres_epochs(self) -> int:
        """The share of the epochs, of which an epoch or more is left for each other stage."""
        if self.fixres == 0:
            return 0
        others = 1 if self.stages == "every_epoch" else self.stages
        return max(1, min(int(self.epochs * self.fixres + 0.5), self.epochs - others))

    @property
    def _stages(self) -> int:
        """Number of stages before that of fixres."""
        if self.stages == "every_epoch":
            return max(1, self.epochs - self._fixres_epochs)
        return self.stages

    def _stage(self, index: int, first_epoch: int, epochs: int) -> Stage:
        count = self._stages
        fraction = _fraction(index, count)
        if self.order == "random":
            sizes = self._sizes()
            resolution = sizes[_drawn(self.seed, first_epoch) % len(sizes)]
            exact = self.resolution_ramp.fraction_of(resolution, self.interpolation)
            fraction = min(1.0, max(0.0, exact))  # an end that was rounded may lie outside
        else:
            levels = min(count, self.max_shapes or count)
            resolution = self._resolution_at(_fraction(index * levels // count, levels))
        return Stage(index, first_epoch, epochs, resolution, self._knobs_at(fraction if self.adaptive else 1))

    def _fixres_stage(self) -> Stage:
        assert self.evaluation_resolution is not None
        epochs = self._fixres_epochs
        return Stage(
            self._stages,
            self.epochs - epochs,
            epochs,
            self.evaluation_resolution,
            self._knobs_at(1),
            trained="head_and_norms",
        )

    def _knobs_at(self, fraction: float) -> dict[str, float]:
        return {name: ramp.at(fraction, self.interpolation) for name, ramp in self.knobs.items()}

    def _resolution_at(self, fraction: float) -> int:
        exact = self.resolution_ramp.at(fraction, self.interpolation)
        if fraction in (0.0, 1.0):
            return round(exact) if self.exact_ends else nearest_multiple(exact, self.multiple_of)
        low, high = self._bounds
        return min(max(nearest_multiple(exact, self.multiple_of), low), high)

    def _sizes(self) -> list[int]:
        """What a random order draws from: both ends and the multiples between, or `max_shapes` of them."""
        if self.max_shapes is not None:
            levels = range(self.max_shapes)
            return sorted({self._resolution_at(_fraction(level, self.max_shapes)) for level in levels})
        low, high = self._bounds
        first_multiple = -(-low // self.multiple_of) * self.multiple_of
        return sorted({low, high, *range(first_multiple, high, self.multiple_of)})

    @property
    def _bounds(self) -> tuple[int, int]:
        low, high = sorted((self._resolution_at(0), self._resolution_at(1)))
        return low, high

    def _first_epochs(self) -> list[int]:
        """Where each stage begins: the split in proportion, and an epoch or more for each stage."""
        count, epochs = self._stages, self.epochs - self._fixres_epochs
        shares = [1] * count if self.split == "even" else list(self.split)
        ends = [int(epochs * total / sum(shares) + 0.5) for total in accumulate(shares)]
        firsts = [0]
        for index, end in enumerate(ends[:-1], start=1):
            firsts.append(min(max(end, firsts[-1] + 1), epochs - (count - index)))
        return firsts


def nearest_multiple(pixels: float, multiple_of: int) -> int:
    """One multiple at least; a half goes up."""
    return multiple_of * max(1, int(pixels / multiple_of + 0.5))


def _fraction(index: int, count: int) -> float:
    """How far along the ramps number `index` of `count` is; a single one is at the end."""
    return index / (count - 1) if count > 1 else 1.0


def _drawn(seed: int, epoch: int) -> int:
    """A random number that is a function of both alone."""
    return int.from_bytes(blake2b(repr((seed, epoch)).encode(), digest_size=8).digest())
