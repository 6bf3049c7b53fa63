"""Where a net spends parameters, multiply-accumulates and memory, and how fast it is on this machine."""

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from crescendo.analysis.costs import ActivationCounter, MacCounter, count_parameters, empty_images, on_meta
from crescendo.analysis.plan import short_number
from crescendo.errors import UserError
from crescendo.models.layers import WithAuxiliary


@dataclass(frozen=True)
class Part:
    """A net, a child of it, or a stage.

    Attributes:
        output: shape for one image in eval mode; None if it does not run then, or returns no tensor.
        macs: of one image in eval mode.
        activation_bytes: what autograd keeps of it in a training step of the whole batch.
        parts: its own; what it does beside them is in its own numbers only.
    """

    name: str
    output: tuple[int, ...] | None
    parameters: int
    macs: int
    activation_bytes: int
    parts: tuple["Part", ...] = ()


@dataclass(frozen=True)
class Speed:
    """Images a second, each a median over steps of one batch, and what they were measured on."""

    inference: float
    training: float
    device: str
    threads: int


def profile_net(net: nn.Module, resolution: int, batch_size: int = 1, in_channels: int = 3) -> Part:
    """The net by its named children, and the stages one by one. Nothing is computed.

    Raises UserError for a batch that is too small for batch norm.
    """
    shadow = on_meta(net)
    macs, memory = _Shares(shadow), _Shares(shadow)
    with torch.no_grad(), MacCounter() as mac_counter, macs.follow(lambda: mac_counter.total):
        shadow.eval()(empty_images(shadow, 1, in_channels, resolution))
    images = empty_images(shadow, batch_size, in_channels, resolution)
    with (
        torch.enable_grad(),
        ActivationCounter(shadow, images) as activations,
        memory.follow(lambda: activations.total),
    ):
        try:
            shadow.train()(images)
        except ValueError as error:
            name = getattr(net, "name", "") or type(net).__name__
            raise UserError(
                f"{name} cannot train on batch_size={batch_size} at {resolution} px: {error}"
            ) from error

    def part(name: str, module: nn.Module, children: Iterator[tuple[str, nn.Module]]) -> Part:
        return Part(
            name=name,
            output=macs.outputs.get(module),
            parameters=count_parameters(module),
            macs=macs.totals.get(module, 0),
            activation_bytes=memory.totals.get(module, 0),
            parts=tuple(part(*child, _parts_of(*child)) for child in children),
        )

    return part(getattr(net, "name", "") or type(net).__name__, shadow, shadow.named_children())


def measure_speed(
    net: nn.Module,
    resolution: int,
    batch_size: int,
    *,
    num_classes: int,
    in_channels: int = 3,
    steps: int = 5,
) -> Speed:
    """Time eval mode without gradients, then whole training steps with SGD, after a warm-up of one.

    In channels_last and the net's own precision, on the GPU if there is one. The net is moved
    there; its weights stay as they are, since the learning rate is 0.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = net.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randn(batch_size, in_channels, resolution, resolution, device=device)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.arange(batch_size, device=device) % num_classes
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0, momentum=0.9)

    def infer() -> None:
        with torch.inference_mode():
            net(images)

    def train() -> None:
        optimizer.zero_grad()
        training_loss(net(images), labels).backward()
        optimizer.step()

    net.eval()
    inference = batch_size / _median_seconds(infer, steps, device)
    net.train()
    training = batch_size / _median_seconds(train, steps, device)
    return Speed(inference, training, describe_device(device), torch.get_num_threads())


def training_loss(output: Tensor | WithAuxiliary, labels: Tensor) -> Tensor:
    """Cross-entropy, with that of the auxiliary heads by their weight."""

    def loss_of(logits: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels)

    return output.loss(loss_of) if isinstance(output, WithAuxiliary) else loss_of(output)


def describe_device(device: torch.device) -> str:
    """The model of the GPU or the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def show_profile(part: Part, resolution: int, batch_size: int, in_channels: int) -> RenderableType:
    """The parts as an indented table for a terminal."""
    table = Table(title=f"{part.name} at {resolution} px", title_justify="left")
    for heading in ("part", "output", "parameters", "MACs", "activations"):
        table.add_column(heading, justify="left" if heading == "part" else "right", no_wrap=True)
    for depth, each in _flat(part):
        table.add_row(
            "  " * depth + each.name,
            "x".join(map(str, each.output)) if each.output else "",
            short_number(each.parameters),
            short_number(each.macs),
            f"{short_number(each.activation_bytes)}B",
            end_section=depth == 0,
        )
    note = (
        f"output and MACs: of one image, {in_channels}x{resolution}x{resolution}; "
        f"activations: what autograd keeps in a training step of {batch_size}"
    )
    return Group(table, Text(note))


def show_speed(speed: Speed, batch_size: int, steps: int) -> Text:
    """Both speeds, and how they were measured."""
    threads = f"{speed.threads} thread{'s' * (speed.threads > 1)}"
    timed = f"{steps} step{'s' * (steps > 1)}"
    return Text(
        f"inference {speed.inference:.3g} images/s, training {speed.training:.3g} images/s\n"
        f"median of {timed} of {batch_size}, channels_last, on {speed.device}, {threads}"
    )


class _Shares:
    """How much of a running total falls to each child and stage of a net, and their outputs' shapes."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self.totals: dict[nn.Module, int] = {}
        self.outputs: dict[nn.Module, tuple[int, ...]] = {}

    @contextmanager
    def follow(self, total: Callable[[], int]) -> Iterator[None]:
        """While the net runs inside. What is not called itself has the sum of its children."""
        starts: dict[nn.Module, int] = {}

        def enter(module: nn.Module, arguments: Any) -> None:
            starts[module] = total()

        def leave(module: nn.Module, arguments: Any, output: Any) -> None:
            self.totals[module] = self.totals.get(module, 0) + total() - starts[module]
            if isinstance(output, Tensor):
                self.outputs[module] = tuple(output.shape[1:])

        handles = []
        for module in self.net.modules():
            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(leave))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        self._complete(self.net)

    def _complete(self, module: nn.Module) -> int:
        children = list(module.children())
        below = sum([self._complete(child) for child in children])
        if module not in self.totals:
            self.totals[module] = below
            if children and children[-1] in self.outputs:
                self.outputs[module] = self.outputs[children[-1]]
        return self.totals[module]


def _parts_of(name: str, child: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The stages of `stages`, counted from 1; other children are shown whole."""
    if name == "stages":
        for index, stage in enumerate(child.children(), start=1):
            yield f"stage {index}", stage


def _flat(part: Part, depth: int = 0) -> Iterator[tuple[int, Part]]:
    yield depth, part
    for child in part.parts:
        yield from _flat(child, depth + 1)


def _median_seconds(step: Callable[[], None], steps: int, device: torch.device) -> float:
    seconds = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return median(seconds[1:])
