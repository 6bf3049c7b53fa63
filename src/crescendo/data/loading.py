"""How batches come to their step: loaded beside the training, timed, and on a GPU one step ahead."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from crescendo.data.faults import Faults
from crescendo.data.sampler import Draws
from crescendo.data.workers import leave_signals_to_the_run
from crescendo.stopwatch import Stopwatch


class Loader(DataLoader[Any]):
    """The batches that `dataset` makes of `draws`, on a GPU if `device` is one, else in the host's memory.

    The dataset gives a batch, or None if nothing of it could be read, and what could not be read.

    Args:
        faults: decides whether the run goes on with those.
        num_workers: processes that load; 0 loads in this one.
        once: they end after one pass.

    Attributes:
        waiting: runs while this process waits for a batch; the training puts its own here.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        draws: Iterable[Draws],
        faults: Faults,
        *,
        num_workers: int,
        device: torch.device,
        once: bool = False,
    ) -> None:
        super().__init__(
            dataset,
            batch_sampler=draws,  # type: ignore[arg-type]  # draws are lists of samples to our datasets alone
            collate_fn=as_it_is,
            num_workers=num_workers,
            worker_init_fn=leave_signals_to_the_run,
            persistent_workers=num_workers > 0 and not once,
            pin_memory=device.type == "cuda",
        )
        self.faults, self.device, self.waiting = faults, device, Stopwatch()

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch promises a class of its own
        """Workers begin here, before the first batch is asked for."""
        batches = self._timed(super().__iter__())
        return one_ahead(batches, self.device) if self.device.type == "cuda" else batches

    def _timed(self, batches: Iterator[Any]) -> Iterator[Any]:
        while True:
            self.waiting.go()
            loaded = next(batches, None)
            self.waiting.hold()
            if loaded is None:
                return
            batch, faults = loaded
            self.faults.meet(faults)
            if batch is not None:
                yield batch


def one_ahead(batches: Iterator[Any], device: torch.device) -> Iterator[Any]:
    """The same batches on a GPU, where each is copied while the step before it computes.

    Lightning copies a batch when its step begins, and asks all ranks for signals before, which waits for the
    GPU. So the next copy is under way, on a stream of its own, before a batch is handed out; the step waits
    on the GPU for its own batch alone. Two batches are there at a time.
    """
    copies = torch.cuda.Stream(device)
    ahead = None
    for batch in batches:
        with torch.cuda.stream(copies):
            copy = move_data_to_device(batch, device)  # from pinned memory, so the host goes on
        following = copy, copies.record_event()
        if ahead is not None:
            yield _handed_over(*ahead, device)
        ahead = following
    if ahead is not None:
        yield _handed_over(*ahead, device)


def _handed_over(batch: Any, copied: torch.cuda.Event, device: torch.device) -> Any:
    """A batch for the stream that computes, which goes on when its copy is complete."""
    computing = torch.cuda.current_stream(device)
    computing.wait_event(copied)
    for part in batch:
        if isinstance(part, Tensor):
            part.record_stream(computing)  # its memory is not the copies' again before the step is done
    return batch


def as_it_is(batch: Any) -> Any:
    """The dataset makes whole batches: there is nothing to collate."""
    return batch
