"""Where the time of a training step goes, what of the machine it uses, and which setting makes it shorter."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from crescendo.analysis.costs import TRAINING_PASSES
from crescendo.analysis.plan import short_number

# In the order of a step. Lightning's own work falls to the part that it comes before.
PARTS = {
    "data": "waiting for the loader",
    "forward": "normalisation, mixing, net, loss",
    "backward": "gradients",
    "optimizer": "clipping, update, learning rate",
    "logging": "metrics, progress bar",
}
NOTICEABLE = 1.05  # a lever that gains less is lost in the noise of most machines
WAITING = 0.1  # a share of the step from which the loader is worth a word


@dataclass(frozen=True)
class StepTimes:
    """A training step of one device, in seconds; medians over steps.

    Attributes:
        seconds: of the whole step, as it is trained: on a GPU the host runs ahead of the device.
        parts: of each of PARTS, measured with the device waited for between them: they may add up to more.
        images: of a step.
        peak_bytes: of the GPU's allocator, else of this process's resident memory.
    """

    seconds: float
    parts: Mapping[str, float]
    images: int
    peak_bytes: int

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds


@dataclass(frozen=True)
class Lever:
    """A setting, and images per second with it over those without, once for each round.

    Attributes:
        impossible: why it could not be measured, or None.
    """

    override: str
    ratios: Sequence[float]
    impossible: str | None = None

    @property
    def helps(self) -> bool:
        """In each round, and noticeably."""
        return self.impossible is None and min(self.ratios) > 1 and median(self.ratios) >= NOTICEABLE


def measure_peak(device: torch.device, dtype: torch.dtype) -> float:
    """The most floating-point operations per second that a product of two matrices reaches here.

    The best of several products of sizes that fill a device. What a net's convolutions could reach at best.
    """
    size = 8192 if device.type == "cuda" else 2048
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(6):
        begin = time.perf_counter()
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begin)
    return 2 * size**3 / min(seconds)


def operations_per_second(times: StepTimes, macs: int, passes: int = TRAINING_PASSES) -> float:
    """Of a training step: two for each multiply-accumulate.

    Args:
        macs: of one image's forward pass.
        passes: forward passes that a step takes as many of as; a backward pass is two.
    """
    return 2 * passes * macs * times.images_per_second


def show_step_times(
    title: str, times: StepTimes, operations: float, peak: float, precision: str, device: str
) -> RenderableType:
    """The parts as a table for a terminal, and below it what the whole step makes of the device.

    Args:
        operations: floating-point operations per second of the step.
        peak: of the device's matrix products.
    """
    table = Table(title=title, title_justify="left")
    table.add_column("part")
    table.add_column("ms", justify="right")
    table.add_column("share", justify="right")
    table.add_column("what it is")
    total = sum(times.parts.values())
    for part, meaning in PARTS.items():
        seconds = times.parts[part]
        table.add_row(part, f"{1e3 * seconds:.2f}", f"{seconds / total:.0%}", meaning)
    table.add_section()
    table.add_row("sum", f"{1e3 * total:.2f}", "", "each part waited for")
    table.add_row("step", f"{1e3 * times.seconds:.2f}", "", "as it is trained")
    return Group(
        table,
        Text(
            f"{times.images_per_second:.4g} images/s, peak memory {times.peak_bytes / 2**20:.0f} MiB\n"
            f"{short_number(round(operations))}FLOP/s are {operations / peak:.0%} of the "
            f"{short_number(round(peak))} that products of matrices reach in {precision} on {device}"
        ),
    )


def show_levers(levers: Sequence[Lever]) -> RenderableType:
    """Each setting's gain, the largest first, and which to type."""
    table = Table(title="what would change it", title_justify="left")
    table.add_column("setting", no_wrap=True)
    table.add_column("images/s", justify="right")
    table.add_column("rounds", justify="right")
    possible = [lever for lever in levers if lever.impossible is None]
    ordered = sorted(possible, key=lambda lever: median(lever.ratios), reverse=True)
    for lever in ordered:
        rounds = f"{min(lever.ratios):.2f} to {max(lever.ratios):.2f}"
        table.add_row(lever.override, f"{median(lever.ratios):.2f}x", rounds)
    helping = [lever.override for lever in ordered if lever.helps]
    advice = f"worth trying: {' '.join(helping)}" if helping else "none of them is noticeably faster here"
    failed = [Text(f"{each.override} cannot be: {each.impossible}") for each in levers if each.impossible]
    return Group(table, Text(advice), *failed)


def advice_on_loading(times: StepTimes) -> str | None:
    """What to do where a step waits for its batch."""
    share = times.parts["data"] / times.seconds
    if share < WAITING:
        return None
    return (
        f"{share:.0%} of a step waits for its batch: more data.num_workers, or smaller images on disk "
        f"(crescendo pack)"
    )
