"""A run in Weights & Biases: shown there while that works, and never at the training's expense.

Whatever goes wrong with W&B is one warning; the run directory has everything.

    start       online or offline, and the run's beginning
    identity    what a run says of itself: configuration, name, group; never a secret
    logger      Lightning's logger: rows, axes, the end
    results     what is shown of the test: tables, worst mistakes with what the net looked at
"""

from crescendo.wandb_run.logger import WandbRun
from crescendo.wandb_run.start import weights_and_biases

__all__ = ["WandbRun", "weights_and_biases"]
