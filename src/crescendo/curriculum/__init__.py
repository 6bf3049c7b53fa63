"""When resolution and regularization rise. `schedule` is pure; `callback` applies it in training."""

from crescendo.curriculum.schedule import Curriculum, Ramp, Stage

__all__ = ["Curriculum", "Ramp", "Stage"]
