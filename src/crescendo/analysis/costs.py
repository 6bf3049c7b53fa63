"""Parameters, multiply-accumulates and resolutions of a net, read from the built module itself."""

import copy
from collections import OrderedDict

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(net: nn.Module) -> int:
    """How many numbers the optimizer may change."""
    return sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)


def count_macs(net: nn.Module, resolution: int, in_channels: int = 3) -> int:
    """Multiply-accumulates of one image in eval mode, at a resolution in pixels.

    Convolutions and matrix products count; norms, activations and pooling do not, as the papers
    count. `net` is neither moved nor changed, and nothing is computed.
    """
    shadow = _meta_copy(net).eval()
    dtype = next((parameter.dtype for parameter in shadow.parameters()), torch.float32)
    image = torch.empty(1, in_channels, resolution, resolution, dtype=dtype, device="meta")
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        shadow(image)
    return counter.get_total_flops() // 2


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


def _meta_copy(net: nn.Module) -> nn.Module:
    """A copy without storage and without hooks: no number is copied, no observer is woken."""
    replaced: dict[int, object] = {}
    for parameter in net.parameters():
        empty = torch.empty_like(parameter, device="meta")
        replaced[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    for buffer in net.buffers():
        replaced[id(buffer)] = torch.empty_like(buffer, device="meta")
    for module in net.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            replaced[id(hooks)] = OrderedDict()
    return copy.deepcopy(net, replaced)
