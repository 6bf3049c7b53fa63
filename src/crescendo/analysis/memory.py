"""The memory of a training step at its highest: worked out from shapes, and measured.

A step is Lightning's: forward and loss, only then are the last step's gradients dropped, backward, the
optimizer. So three things are there beside the weights when the forward pass ends: gradients, the optimizer's
state, and what autograd keeps for the backward pass.
"""

import gc
import json
import tempfile
import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import Optimizer
from torch.profiler import ProfilerActivity, profile
from torch.utils._pytree import tree_leaves

from crescendo.analysis.costs import empty_images, on_meta
from crescendo.analysis.operators import OperatorMode
from crescendo.analysis.profile import training_loss
from crescendo.optim import OptimizerFactory, Rates, make_optimizer

aten = torch.ops.aten


@dataclass(frozen=True)
class StepMemory:
    """Bytes of a training step.

    Attributes:
        weights: parameters and buffers.
        gradients: of all parameters that are trained.
        optimizer: its state.
        peak: all that is allocated at once, at its highest.
    """

    weights: int
    gradients: int
    optimizer: int
    peak: int

    @property
    def activations(self) -> int:
        """What the peak has beside the other three: activations, the images, what an operation passes on."""
        return self.peak - self.weights - self.gradients - self.optimizer


def estimate_step_memory(
    net: nn.Module,
    resolution: int,
    batch_size: int,
    optimizer: OptimizerFactory,
    in_channels: int = 3,
    *,
    autocast: torch.dtype | None = None,
    device: torch.device | None = None,
    train_mode: Callable[[nn.Module], object] = nn.Module.train,
    rates: Callable[[nn.Module], Rates | None] = lambda net: None,
) -> StepMemory:
    """Follow a training step on the meta device, tensor by tensor, in the net's precision and at its rates.

    Counted is what torch allocates for the results of operations. What a kernel needs for itself does not
    count: weights that a CPU's convolution reorders, cuDNN's workspaces. `net` is neither moved nor changed.

    Args:
        autocast: what mixed precision computes products in. The meta device has none: the CPU's is followed,
            on tensors that say they are there.
        device: where the step will run, by default as measure_step_memory decides: an optimizer that may
            choose is fused on a GPU, or takes all weights at once (foreach), and one by one on a CPU.
        train_mode: puts a net into the mode of its training.
        rates: of a net's parameters (crescendo.optim.parameter_groups).

    Raises:
        ValueError: the batch is too small for batch norm.
    """
    device = device or _device()
    pretended: AbstractContextManager[Any] = nullcontext()
    if autocast is not None:
        pretended = FakeTensorMode()
    with pretended:
        shadow = on_meta(net, "meta" if autocast is None else "cpu")
        train_mode(shadow)
        images = empty_images(shadow, batch_size, in_channels, resolution)
        labels = torch.empty(batch_size, dtype=torch.long, device=images.device)
        stepper = make_optimizer(optimizer, shadow, rates=rates(shadow))
        if device.type == "cuda":
            _take_all_at_once(stepper)
        with _Allocations() as allocations:
            allocations.add([*shadow.parameters(), *shadow.buffers(), images, labels])
            weights = allocations.now - _bytes([images, labels])
            trained = [parameter for parameter in shadow.parameters() if parameter.requires_grad]
            for parameter in trained:
                parameter.grad = torch.empty_like(parameter)
            gradients = _bytes(trained)
            stepper.step()  # makes the state
            state = allocations.now - weights - gradients - _bytes([images, labels])
            allocations.peak = allocations.now
            _train(shadow, stepper, images, labels, autocast)
    return StepMemory(weights, gradients, state, allocations.peak)


def measure_step_memory(
    net: nn.Module,
    resolution: int,
    batch_size: int,
    optimizer: OptimizerFactory,
    in_channels: int = 3,
    *,
    autocast: torch.dtype | None = None,
) -> int:
    """Bytes at the allocator's peak in the second of two training steps on random images.

    In channels_last, on the GPU if there is one. The net is moved there and trained.
    """
    device = _device()
    net = net.train().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randn(batch_size, in_channels, resolution, resolution, device=device)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.zeros(batch_size, dtype=torch.long, device=device)
    stepper = make_optimizer(optimizer, net)

    def two_steps() -> None:
        for _ in range(2):  # the second has the first one's gradients, and the state
            _train(net, stepper, images, labels, autocast)

    return _bytes([*net.parameters(), *net.buffers(), images, labels]) + allocator_peak(two_steps, device)


def allocator_peak(task: Callable[[], None], device: torch.device) -> int:
    """Bytes at their highest while `task` runs, beyond those in use before. It must free none of these."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        task()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        task()
    with tempfile.TemporaryDirectory() as place:
        trace = Path(place) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    # Signed bytes of each allocation and release. A release of what was there before is not among them.
    changes = [(event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]"]
    total = peak = 0
    for _, change in sorted(changes, key=lambda pair: pair[0]):
        total += change
        peak = max(peak, total)
    return peak


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _take_all_at_once(optimizer: Optimizer) -> None:
    """As torch chooses on a GPU where nothing else is said.

    One that can be fused is (crescendo.optim.make_optimizer), and takes no more than weights one by one.
    """
    for group in optimizer.param_groups:
        chosen = group.get("fused", False) is not False or group.get("differentiable")
        if "foreach" in group and group["foreach"] is None and not chosen:
            group["foreach"] = True


def _train(
    net: nn.Module, optimizer: Optimizer, images: Tensor, labels: Tensor, autocast: torch.dtype | None
) -> None:
    """Mixed precision ends with the loss, as in Lightning: copies of weights that nothing saved are gone."""
    with nullcontext() if autocast is None else torch.autocast(images.device.type, autocast):
        loss = training_loss(net(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _bytes(tensors: Iterable[Tensor]) -> int:
    """Of what they are stored in, each once."""
    storages = {storage._cdata: storage for storage in (tensor.untyped_storage() for tensor in tensors)}
    return sum(storage.nbytes() for storage in storages.values())


class _Allocations(OperatorMode):
    """The bytes of all storages that operations inside it returned and that are alive: now, and at most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: dict[int, weakref.ref[Any]] = {}

    def add(self, results: Any) -> None:
        """Count these tensors, unless they share a storage with one that is counted."""
        for tensor in tree_leaves(results):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._alive:
                    self._follow(storage._cdata, storage)

    def _follow(self, address: int, storage: torch.UntypedStorage) -> None:
        size = storage.nbytes()

        def release(_: object) -> None:
            del self._alive[address]
            self.now -= size

        self._alive[address] = weakref.ref(storage, release)
        self.now += size
        self.peak = max(self.peak, self.now)

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        results = _batch_norm(func, args) or func(*args, **kwargs)
        self.add(results)
        return results


def _batch_norm(func: Any, args: tuple[Any, ...]) -> tuple[Tensor | None, ...] | None:
    """What a batch norm returns, of the right shapes; None for another operation.

    The meta device works out a dozen operators for each, which is half of the time of a whole step.
    """
    operator = getattr(func, "_overloadpacket", None)
    if operator is aten.native_batch_norm:
        channels = args[0].new_empty(args[0].shape[1])
        return torch.empty_like(args[0]), channels, torch.empty_like(channels)
    if operator is aten.native_batch_norm_backward:
        images, weight, wanted = args[1], args[2], args[-1]
        results = (images, weight, weight)
        return tuple(
            torch.empty_like(each) if is_wanted else None
            for each, is_wanted in zip(results, wanted, strict=True)
        )
    return None
