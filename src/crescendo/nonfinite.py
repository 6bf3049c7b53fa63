"""A loss or weights that are not finite: where, with which draws, and what becomes of the run.

Nobody waits for the device to look at each loss. The sums of the training losses are read at every logging
and saving point anyway, and one loss that is not finite makes their sum so.
"""

import json
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn

from crescendo.errors import UserError
from crescendo.storage import write_whole

MOST_SKIPS = 10  # windows; a training that needs more has another fault


@dataclass(frozen=True)
class Window:
    """Batches of an epoch, from the first to the last, which ends at an optimizer step counted from 1."""

    epoch: int
    first: int
    last: int
    step: int

    def __contains__(self, place: tuple[int, int]) -> bool:
        epoch, batch = place
        return epoch == self.epoch and self.first <= batch <= self.last


class NonFiniteError(UserError):
    """A loss, or the weights after it, was not finite somewhere in `window`."""

    def __init__(self, window: Window) -> None:
        super().__init__(
            f"the loss was not finite within epoch {window.epoch + 1}, batches {window.first + 1} to "
            f"{window.last + 1}, which end at step {window.step}"
        )
        self.window = window


def all_finite(module: nn.Module, *others: Tensor) -> Tensor:
    """Whether all weights, statistics and `others` are: a boolean on the module's device, not read here."""
    tensors = chain(module.parameters(), module.buffers(), others)
    return torch.stack([tensor.isfinite().all() for tensor in tensors if tensor.is_floating_point()]).all()


class Windows:
    """nonfinite.json of a run directory: the windows that were met, their images, and which are left out."""

    def __init__(self, run: Path) -> None:
        self.path = run / "nonfinite.json"
        self._entries = json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else []

    @property
    def skipped(self) -> list[Window]:
        return [Window(**entry["window"]) for entry in self._entries if entry["skipped"]]

    def met(self, window: Window, indices: list[int]) -> None:
        """Note a window and the indices of its training images; once, however often it is met."""
        if window not in [Window(**entry["window"]) for entry in self._entries]:
            self._entries.append({"window": asdict(window), "indices": indices, "skipped": False})
            self._write()

    def skip_all(self) -> None:
        """Leave out what was met, from now on.

        Raises:
            UserError: there are too many.
        """
        if len(self._entries) > MOST_SKIPS:
            raise UserError(
                f"more than {MOST_SKIPS} windows with a loss that is not finite: skipping does not help. "
                f"Lower optimizer.lr, or set trainer.gradient_clip_val."
            )
        if not all(entry["skipped"] for entry in self._entries):
            self._entries = [entry | {"skipped": True} for entry in self._entries]
            self._write()

    @rank_zero_only
    def _write(self) -> None:
        write_whole(self.path, json.dumps(self._entries) + "\n")
