"""Progressive learning as a pure function of the epoch.

EfficientNetV2: Smaller Models and Faster Training.  Mingxing Tan, Quoc V. Le, 2021.
arXiv:2104.00298, section 4.2, Algorithm 1: stage i of M trains at resolution
S_0 + (S_e - S_0) * i / (M - 1), each regularizer likewise, and inherits the weights.

Nothing here is stored anywhere: a checkpoint or a worker needs the epoch alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal, cast

from crescendo.errors import UserError

Interpolation = Literal["linear", "geometric"]


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


@dataclass(frozen=True)
class Stage:
    """A stretch of epochs with one resolution (px, square) and one value for each knob."""

    index: int
    first_epoch: int
    epochs: int
    resolution: int
    knobs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Curriculum:
    """The stages of a training of `epochs` epochs.

    Args:
        epochs: length of the training.
        resolution: px; a number stays, a range rises. A range that starts at "auto" starts at half its
            end, or at `smallest` if that is more.
        stages: number of stages; one stage trains at the end values.
        split: "even", or the epochs of each stage. A list that does not add up to `epochs` is scaled.
        knobs: regularization strengths, each a ramp.
        multiple_of: what the resolutions between the first and the last are rounded to.
        interpolation: between start and end, of the resolution and of every knob.
        evaluation_resolution: px, for validation and test; None is the last stage's.
        smallest: px that the net takes.

    Raises:
        UserError: fewer epochs than stages, a split of another length, a ramp that cannot be.
    """

    epochs: int
    resolution: Ramp | float | Mapping[str, float | Literal["auto"]]
    stages: int = 1
    split: Sequence[int] | Literal["even"] = "even"
    knobs: Mapping[str, Ramp] = field(default_factory=dict)
    multiple_of: int = 1
    interpolation: Interpolation = "linear"
    evaluation_resolution: int | None = None
    smallest: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.resolution, Mapping) and self.resolution["start"] == "auto":
            end = float(self.resolution["end"])
            start = self.multiple_of * round(end / 2 / self.multiple_of)
            object.__setattr__(self, "resolution", Ramp(min(end, max(start, self.smallest)), end))
        if self.evaluation_resolution is None:
            object.__setattr__(self, "evaluation_resolution", round(self.resolution_ramp.end))
        if self.stages < 1:
            raise UserError(f"curriculum.stages={self.stages}: there is at least one stage.")
        if self.epochs < self.stages:
            raise UserError(
                f"{self.epochs} epochs are too few for {self.stages} stages: each takes at least one. "
                f"Set trainer.max_epochs={self.stages} or more, or curriculum.stages={self.epochs}."
            )
        if self.split != "even" and (len(self.split) != self.stages or min(self.split) < 1):
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

    @property
    def resolution_ramp(self) -> Ramp:
        return Ramp.of(cast(Ramp | float | Mapping[str, float], self.resolution))

    @property
    def plan(self) -> tuple[Stage, ...]:
        """All stages, in order."""
        firsts = self._first_epochs()
        ends = [*firsts[1:], self.epochs]
        return tuple(
            self._stage(index, first, end - first)
            for index, (first, end) in enumerate(zip(firsts, ends, strict=True))
        )

    def at(self, epoch: int) -> Stage:
        """The stage that `epoch` (from 0) belongs to."""
        if not 0 <= epoch < self.epochs:
            raise ValueError(f"epoch {epoch} is outside of a training of {self.epochs} epochs")
        return next(stage for stage in reversed(self.plan) if stage.first_epoch <= epoch)

    def _stage(self, index: int, first_epoch: int, epochs: int) -> Stage:
        fraction = index / (self.stages - 1) if self.stages > 1 else 1.0
        knobs = {name: ramp.at(fraction, self.interpolation) for name, ramp in self.knobs.items()}
        return Stage(index, first_epoch, epochs, self._resolution_at(fraction), knobs)

    def _resolution_at(self, fraction: float) -> int:
        exact = self.resolution_ramp.at(fraction, self.interpolation)
        if fraction in (0.0, 1.0):
            return round(exact)
        rounded = self.multiple_of * int(exact / self.multiple_of + 0.5)
        low, high = sorted((round(self.resolution_ramp.start), round(self.resolution_ramp.end)))
        return min(max(rounded, low), high)

    def _first_epochs(self) -> list[int]:
        """Where each stage begins: the split in proportion, and an epoch or more for each stage."""
        shares = [1] * self.stages if self.split == "even" else list(self.split)
        ends = [int(self.epochs * total / sum(shares) + 0.5) for total in accumulate(shares)]
        firsts = [0]
        for index, end in enumerate(ends[:-1], start=1):
            firsts.append(min(max(end, firsts[-1] + 1), self.epochs - (self.stages - index)))
        return firsts
