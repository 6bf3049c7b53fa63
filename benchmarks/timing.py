"""What the benchmarks of nets share: the tasks that they time, and timing them in turns."""

import gc
import platform
import time
from collections.abc import Callable, Sequence
from statistics import median, quantiles

import torch
from torch import nn

from crescendo.analysis.profile import describe_device, training_loss
from crescendo.models.layers import WithAuxiliary

TASKS = ("forward", "training step")

Step = Callable[[], None]


def step(
    task: str,
    net: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    precision: torch.dtype = torch.float32,
) -> Step:
    """What is timed: a forward pass in inference mode, or forward, loss, backward and the optimizer's step.

    Gradients are dropped beforehand, so that each step makes them. A `precision` below float32 is that of
    autocast, which leaves the weights in float32.
    """
    autocast = torch.autocast(images.device.type, precision, enabled=precision != torch.float32)

    def forward() -> None:
        net.eval()
        with torch.inference_mode(), autocast:
            net(images)

    def train() -> None:
        net.train().zero_grad()
        with autocast:
            output = net(images)
            if hasattr(output, "aux_logits1"):  # torchvision's GoogLeNet
                output = WithAuxiliary(output.logits, (output.aux_logits1, output.aux_logits2), 0.3)
            loss = training_loss(output, labels)
        loss.backward()
        if optimizer is not None:
            optimizer.step()

    return forward if task == "forward" else train


def time_in_turns(steps: Sequence[Step], turns: int, device: torch.device) -> list[list[float]]:
    """Seconds of each step in each turn, after one turn to warm up.

    Each turn begins with the next step, and goes round forwards and backwards by turns.
    """
    count, seconds = len(steps), []
    for turn in range(turns + 1):
        direction = 1 if turn // count % 2 == 0 else -1
        order = [(turn + direction * place) % count for place in range(count)]
        taken = {which: _time_of(steps[which], device) for which in order}
        seconds.append([taken[which] for which in range(count)])
    return seconds[1:]


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Median and quartiles."""
    low, _, high = quantiles(values, n=4)
    return f"{median(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def describe_machine(device: torch.device, threads: int) -> str:
    """Hardware and versions."""
    return (
        f"{describe_device(device)}, {threads} thread{'s' * (threads > 1)}, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def _time_of(step: Step, device: torch.device) -> float:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
