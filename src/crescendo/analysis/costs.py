"""Parameters, multiply-accumulates, activation memory and resolutions of a net, read from the built
module itself. Nothing is computed: a shadow of the net runs on the meta device, where tensors have
shapes but no numbers.
"""

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import flop_registry

from crescendo.analysis.operators import OperatorMode

aten = torch.ops.aten
AnyModule = TypeVar("AnyModule", bound=nn.Module)

# A training step in forward passes: the backward pass makes two products, for weights and for inputs,
# where the forward pass makes one. The first layer needs no gradient of the images: not subtracted.
TRAINING_PASSES = 3


def count_parameters(net: nn.Module) -> int:
    """How many numbers the optimizer may change."""
    return sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)


def count_macs(net: nn.Module, resolution: int, in_channels: int = 3) -> int:
    """Multiply-accumulates of one image in eval mode, at a resolution in pixels.

    Convolutions and matrix products count; norms, activations and pooling do not, as the papers
    count. `net` is neither moved nor changed.
    """
    return count_macs_on_meta(on_meta(net).eval(), resolution, in_channels)


def count_macs_on_meta(shadow: nn.Module, resolution: int, in_channels: int = 3) -> int:
    """count_macs of a net that is on the meta device and in eval mode: without a copy of it."""
    with torch.no_grad(), MacCounter() as counter:
        shadow(empty_images(shadow, 1, in_channels, resolution))
    return counter.total


def activation_memory(net: nn.Module, resolution: int, batch_size: int = 1, in_channels: int = 3) -> int:
    """Bytes that autograd keeps between the forward and the backward pass of a training step.

    At the net's own precision and drop rates, without compilation, of the operators that a GPU runs.
    Tensors that share memory count once; parameters, buffers, the images and the loss do not count, nor
    does what an operation needs for itself. `net` is neither moved nor changed.
    """
    shadow = on_meta(net).train()
    images = empty_images(shadow, batch_size, in_channels, resolution)
    with torch.enable_grad(), ActivationCounter(shadow, images) as counter:
        shadow(images)
    return counter.total


def check_resolution(net: nn.Module, resolution: int) -> str | None:
    """Why the net cannot take a resolution ("alexnet needs 63 px or more"), or None if it can."""
    name = getattr(net, "name", "") or type(net).__name__
    smallest = getattr(net, "min_resolution", 1)
    largest = getattr(net, "max_resolution", None)
    if smallest <= resolution and (largest is None or resolution <= largest):
        return None
    if smallest == largest:
        return f"{name} takes {smallest} px only"
    if resolution < smallest:
        return f"{name} needs {smallest} px or more"
    return f"{name} takes {largest} px at most"


class MacCounter(OperatorMode):
    """Adds up in `total` the multiply-accumulates of what runs inside it, by torch's own formulas.

    For the meta device and eval mode. Its counts are those of torch's FlopCounterMode, halved, in a
    quarter of the time: that one looks for a decomposition of each operator without a formula, and
    a batch norm works out the shapes of a dozen operators to return its input's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        operator = getattr(func, "_overloadpacket", None)
        if operator is aten.native_batch_norm and args[3] is not None:
            return args[0], args[3], args[4]  # no number would change
        output = func(*args, **kwargs)
        formula = flop_registry.get(operator)
        if formula is not None:
            self.total += formula(*args, **kwargs, out_val=output) // 2
        return output


class ActivationCounter:
    """Adds up in `total` the bytes of what autograd saves inside it. There is no way back from it:
    it is for the meta device.
    """

    def __init__(self, net: nn.Module, images: Tensor) -> None:
        self.total = 0
        self._hooks = saved_tensors_hooks(self._save, self._restore)
        # By address; they are kept, since a freed one's address could come again.
        known = (*net.parameters(), *net.buffers(), images)
        self._storages = {storage._cdata: storage for storage in (t.untyped_storage() for t in known)}

    def __enter__(self) -> "ActivationCounter":
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)

    def _save(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._storages:
            self._storages[storage._cdata] = storage
            self.total += storage.nbytes()

    def _restore(self, nothing: None) -> Tensor:
        raise AssertionError("an ActivationCounter only counts")


class _WithoutInitialisation(OperatorMode):
    """Leaves random weights undrawn: on the meta device there are none, but looking takes its time."""

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func._overloadpacket in (aten.normal_, aten.uniform_):
            return args[0]
        return func(*args, **kwargs)


def shapes_of(build: Callable[..., AnyModule], *arguments: Any) -> AnyModule:
    """What `build` builds, on the meta device: with shapes and without numbers."""
    with torch.device("meta"), _WithoutInitialisation():
        return build(*arguments)


def on_meta(net: nn.Module, device: str = "meta") -> nn.Module:
    """A copy without storage and without hooks: no number is copied, no observer is woken.

    Args:
        device: that its tensors say they are on, within a FakeTensorMode.
    """

    def shape_of(tensor: Tensor) -> Tensor:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)

    replaced: dict[int, object] = {}
    for parameter in net.parameters():
        replaced[id(parameter)] = nn.Parameter(shape_of(parameter), requires_grad=parameter.requires_grad)
    for buffer in net.buffers():
        replaced[id(buffer)] = shape_of(buffer)
    for module in net.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            replaced[id(hooks)] = OrderedDict()
    return copy.deepcopy(net, replaced)


def empty_images(net: nn.Module, batch_size: int, in_channels: int, resolution: int) -> Tensor:
    """Images of the net's precision, where the net is: on the meta device."""
    like = next(net.parameters(), torch.empty(0, device="meta"))
    shape = (batch_size, in_channels, resolution, resolution)
    return torch.empty(shape, dtype=like.dtype, device=like.device)
