"""Batch norm's running statistics: shared by devices, taken anew for a validation, and how far they move.

A net that grew used to one resolution has running means and variances of that resolution's activations; at
another they do not fit (Touvron et al. 2019, arXiv:1906.06423, section 3).
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Statistics = dict[str, Tensor]  # by name in the module's state_dict


def statistics(module: nn.Module) -> Statistics:
    """The running means and variances in a module, and of how many batches they are: its own tensors."""
    return {
        f"{name}.{kind}": value
        for name, layer in module.named_modules()
        if isinstance(layer, _BatchNorm)
        for kind, value in layer.named_buffers(recurse=False)
    }


def copy_of(module: nn.Module) -> Statistics:
    """Its statistics as they are now."""
    return {name: value.clone() for name, value in statistics(module).items()}


def put(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Give a module these statistics."""
    for name, own in statistics(module).items():
        own.copy_(values[name])


def share_from_rank_zero(module: nn.Module) -> None:
    """All devices take over rank 0's statistics, in one message."""
    _exchange(module, lambda flat: torch.distributed.broadcast(flat, src=0))


def refresh(module: nn.Module, batches: Iterable[Tensor], ranks: int = 1) -> int:
    """Take the statistics anew from `batches`, which `module` maps: the mean of those of each batch.

    All other layers stay in eval mode. With several devices each runs its own batches, and all get the mean.

    Returns:
        The number of images that ran, on this device.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    images = 0
    module.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # torch's sign for a cumulative average
        layer.train()
    with torch.no_grad():
        for batch in batches:
            module(batch)
            images += len(batch)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
        layer.eval()
    if ranks > 1:
        _exchange(module, lambda flat: torch.distributed.all_reduce(flat.div_(ranks)))
    return images


def drift(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], eps: float = 1e-5
) -> tuple[float, float]:
    """How far statistics moved; both numbers are 0 for statistics that did not, and have no unit.

    Per channel, averaged over a layer's channels and then over the layers:

        mean      |mean' - mean| / sqrt(var + eps)         in standard deviations of before
        variance  |ln((var' + eps) / (var + eps))|         0.69 is a factor of 2, up or down
    """
    means, variances = [], []
    for name in before:
        if name.endswith("running_mean"):
            spread = name.replace("running_mean", "running_var")
            moved = (after[name] - before[name]).abs() / (before[spread] + eps).sqrt()
            means.append(moved.mean())
            variances.append(((after[spread] + eps) / (before[spread] + eps)).log().abs().mean())
    return float(torch.stack(means).mean()), float(torch.stack(variances).mean())


def _exchange(module: nn.Module, exchange: Callable[[Tensor], Any]) -> None:
    """Run a collective over all means and variances, as one tensor."""
    values = [value for value in statistics(module).values() if value.is_floating_point()]
    if not values:
        return
    flat = torch.cat(values)
    exchange(flat)
    for value, exchanged in zip(values, flat.split([len(value) for value in values]), strict=True):
        value.copy_(exchanged)
