"""How much of the image one position of a net's last feature map sees."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from crescendo.analysis.costs import empty_images, on_meta
from crescendo.analysis.operators import OperatorMode

aten = torch.ops.aten


class Field(NamedTuple):
    """Of one position of a feature map, in px of the image: its width, and the step to the next."""

    size: int
    stride: int

    def through(self, kernel_size: int, stride: int, dilation: int = 1) -> "Field":
        """Seen through a window over this map."""
        return Field(self.size + (kernel_size - 1) * dilation * self.stride, self.stride * stride)


def receptive_field(net: nn.Module, resolution: int | None = None, in_channels: int = 3) -> int:
    """The side in px of the receptive field of the last feature map, in front of the global pool.

    Follows the tensors of one forward pass in eval mode through every convolution and pool; where
    branches meet, the largest field counts. It is the architecture's: it may be larger than the
    image, weights play no part, and of an oblong one the width is taken. What a gate takes from a global mean
    (squeeze-excitation) does not count, since by that every position sees the whole image.
    `resolution` defaults to the net's own; another one changes nothing but adaptive pools.
    """
    side = resolution or getattr(net, "resolution", None)
    if side is None:
        raise ValueError(f"{type(net).__name__} has no resolution of its own: give one")
    shadow = on_meta(net).eval()
    images = empty_images(shadow, 1, in_channels, side)
    with torch.no_grad(), _Walk(images) as walk:
        shadow(images)
    return max(field.size for _, field in walk.seen.values())


class _Walk(OperatorMode):
    """Notes in `seen` the field of every tensor whose last two axes are positions in the image."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        # By id; the tensors are kept, since a freed one's id could come again.
        self.seen: dict[int, tuple[Tensor, Field]] = {}
        self._note(images, Field(1, 1))

    def _note(self, tensor: Tensor, field: Field) -> None:
        self.seen[id(tensor)] = tensor, field

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        sources = [self.seen[id(leaf)] for leaf in tree_leaves((args, kwargs)) if id(leaf) in self.seen]
        sizes = {tuple(tensor.shape[-2:]) for tensor, _ in sources}  # before an in-place change
        output = func(*args, **kwargs)
        if sources:
            fields = [field for _, field in sources]
            widest = Field(max(field.size for field in fields), max(field.stride for field in fields))
            field = _seen_through(func._overloadpacket, args, widest)
            for tensor in tree_leaves(output):
                if isinstance(tensor, Tensor):
                    if field is not None:
                        self._note(tensor, field)
                    elif tensor.ndim >= 2 and tuple(tensor.shape[-2:]) in sizes:
                        self._note(tensor, widest)
        return output


def _seen_through(operator: Any, args: tuple[Any, ...], field: Field) -> Field | None:
    """The field behind an operator that moves a window, takes every n-th position or pads; None for
    others, which keep the field if they keep the positions.
    """
    if operator is aten.convolution:
        _, weight, _, stride, _, dilation, transposed = args[:7]
        if transposed:
            raise ValueError("the receptive field behind a transposed convolution is not known")
        return field.through(weight.shape[-1], stride[-1], dilation[-1])
    if operator in (aten.max_pool2d_with_indices, aten.avg_pool2d):
        kernel_size, stride = args[1], args[2] if len(args) > 2 and args[2] else args[1]
        dilated = operator is aten.max_pool2d_with_indices and len(args) > 4
        return field.through(_last(kernel_size), _last(stride), _last(args[4]) if dilated else 1)
    if operator is aten.slice:
        ndim, axis = args[0].ndim, args[1] if len(args) > 1 else 0
        step = args[4] if len(args) > 4 else 1
        return field.through(1, step if axis % ndim == ndim - 1 else 1)
    if operator is aten.constant_pad_nd:
        return field
    return None


def _last(value: int | Sequence[int]) -> int:
    return value if isinstance(value, int) else value[-1]
