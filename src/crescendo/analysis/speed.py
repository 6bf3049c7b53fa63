"""What a probe measured: seconds and memory of each stage's steps, and of a validation."""

from collections.abc import Sequence
from dataclasses import dataclass

from crescendo.curriculum.budget import TrainingCost
from crescendo.curriculum.schedule import Stage


@dataclass(frozen=True)
class StageSpeed:
    """Optimizer steps of one stage, over all devices.

    Attributes:
        step_seconds: mean over the measured steps, with loading and augmentation.
        start_seconds: what the stage's first steps took longer than that: workers that start, kernels
            that are chosen, a net that is compiled.
        peak_bytes: of the GPU's allocator, else of this process's resident memory.
    """

    stage: Stage
    step_seconds: float
    start_seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Speeds:
    """A training as measured on `devices` devices of the kind `device`.

    Attributes:
        stages: those that were measured.
        steps: measured in each, after its first ones.
        validation_seconds: of a whole validation; of a large one, a part was measured.
    """

    stages: Sequence[StageSpeed]
    steps: int
    validation_seconds: float
    device: str
    devices: int

    def cost(self, steps_per_epoch: int, validate_every: int) -> TrainingCost:
        """Seconds of trainings: their steps and validations, without start, test and checkpoints."""
        return TrainingCost(
            [each.stage for each in self.stages],
            [each.step_seconds * steps_per_epoch for each in self.stages],
            per_validation=self.validation_seconds,
            validate_every=validate_every,
            once=sum(each.start_seconds for each in self.stages),
        )
