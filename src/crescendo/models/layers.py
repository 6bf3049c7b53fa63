"""What two families share: the base of all nets, dropout, drop path, initialisation, scaling."""

import math
from collections.abc import Callable
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crescendo.errors import UserError


class Net(nn.Module):
    """The base of every net: x [N, C, H, W] -> logits [N, num_classes] in eval mode.

    `min_resolution` is the smallest sensible square input, in pixels: the net's overall stride, so
    that the last feature map has one pixel of its own, or more where layers without padding need
    it. `max_resolution` is None for a net that takes any larger one. `resolution` is the one that
    its paper tests at: an attribute of the class, or set by the builder where variants differ; every
    registered net has one.
    """

    name: str = ""  # the registered name, set by @register
    min_resolution: int
    max_resolution: int | None = None
    resolution: int | None = None
    stages: nn.Sequential
    pool: nn.Module  # between the last maps and the head
    auxiliary: nn.ModuleList  # heads of earlier stages that only a training has; of GoogLeNets alone

    def readers(self) -> list[nn.Module]:
        """For each stage, the module whose input its maps [N, C, h, w] are, in order.

        The last stage's are those in front of the pool. A stage is a Sequential, and its first
        layer runs as a module of its own also where the stage does not.
        """
        return [*(stage[0] for stage in list(self.stages)[1:]), self.pool]  # type: ignore[index]


class WithAuxiliary(NamedTuple):
    """What a net with auxiliary heads returns in train mode; in eval mode it returns logits alone.

    Its loss is that of `logits`, plus `weight` times that of each of `auxiliary`. All are
    [N, num_classes].
    """

    logits: Tensor
    auxiliary: tuple[Tensor, ...]
    weight: float

    def loss(self, of: Callable[[Tensor], Tensor]) -> Tensor:
        """The loss of all heads, where `of` is that of one head's logits."""
        return of(self.logits) + self.weight * sum(of(logits) for logits in self.auxiliary)


class _Drop(nn.Module):
    """The rate of a Dropout or DropPath, which may change during training.

    A compiled net must not recompile for a new rate, so forward reads it from a buffer. The one
    Python value that forward reads is `active`, which is False at rate 0: then the layer returns
    its input itself, draws no random numbers, and never waits for the device.
    `published` is the rate the net was built with.
    """

    probability: Tensor

    def __init__(self, rate: float, share: float) -> None:
        super().__init__()
        self.published = rate
        self.share = share
        probability = torch.zeros((), dtype=torch.float32)
        self.register_buffer("probability", probability, persistent=False)
        self.set_rate(rate)

    def set_rate(self, rate: float) -> None:
        """Drop with probability rate * share from now on, 0 <= rate < 1."""
        if not 0 <= rate < 1:
            raise ValueError(f"a drop rate must be at least 0 and below 1, not {rate}")
        self.rate = float(rate)
        self.active = bool(rate > 0)
        self.probability.fill_(self.rate * self.share)

    def scale(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """0 with the layer's probability, else 1/keep, so that the mean is preserved.

        Drawn and scaled in float32: in bfloat16 a rate would be rounded to 1/256.
        """
        keep = 1 - self.probability
        drawn = torch.rand(shape, dtype=torch.float32, device=like.device)
        return ((drawn < keep) / keep).to(like.dtype)

    def extra_repr(self) -> str:
        return f"rate={self.rate}" if self.share == 1 else f"rate={self.rate}, share={self.share}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moved, cast, or materialised from the meta device: the buffer gets its value again."""
        super()._apply(fn, recurse)
        self.probability = self.probability.float()
        self.probability.fill_(self.rate * self.share)
        return self


class Dropout(_Drop):
    """Dropout before a head's last linear layers (Srivastava et al. 2014).

    Only there: auxiliary heads use torch's nn.Dropout, whose rate stays as published.
    """

    def __init__(self, rate: float) -> None:
        super().__init__(rate, share=1.0)

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and self.active):
            return x
        return x * self.scale(x.shape, x)


class DropPath(_Drop):
    """Stochastic depth, last in a residual branch (Huang et al. 2016, arXiv:1603.09382).

    A sample's branch is dropped with probability rate * share, where share in (0, 1] is the
    block's position by the family's own rule (the paper's: block l of L has share l/L).
    Deviations: per sample, where the paper drops a block for the whole batch; a branch that is
    kept is scaled by 1/keep in training, where the paper scales it by keep in evaluation.
    """

    def __init__(self, rate: float, share: float) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, not {share}")
        super().__init__(rate, share)

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and self.active):
            return x
        return x * self.scale((x.shape[0],) + (1,) * (x.ndim - 1), x)


def set_dropout(net: nn.Module, rate: float) -> int:
    """Set the rate of every head's last dropout; how many layers that were (0: net owns none)."""
    return _set_rate(net, Dropout, rate)


def set_drop_path(net: nn.Module, rate: float) -> int:
    """Set the drop path rate of the whole net; how many layers that were (0: net owns none)."""
    return _set_rate(net, DropPath, rate)


def published_dropout(net: nn.Module) -> float | None:
    """The head's dropout rate as the paper gives it; None if the net owns no such layer."""
    return _published(net, Dropout)


def published_drop_path(net: nn.Module) -> float | None:
    """The drop path rate as the paper gives it; None if the net owns no such layer."""
    return _published(net, DropPath)


def _owned(net: nn.Module, kind: type[_Drop]) -> list[_Drop]:
    return [layer for layer in net.modules() if isinstance(layer, kind)]


def _set_rate(net: nn.Module, kind: type[_Drop], rate: float) -> int:
    layers = _owned(net, kind)
    for layer in layers:
        layer.set_rate(rate)
    return len(layers)


def _published(net: nn.Module, kind: type[_Drop]) -> float | None:
    rates = {layer.published for layer in _owned(net, kind)}
    if len(rates) > 1:
        raise ValueError(f"the {kind.__name__} layers of one net share a rate, not {sorted(rates)}")
    return rates.pop() if rates else None


def initialize_he(net: nn.Module) -> None:
    """Convolutions as He et al. 2015 (arXiv:1502.01852), equation 14: fan-out, biases 0.

    Norms keep torch's gain 1 and shift 0, linear layers torch's default.
    """
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def convolution(
    in_width: int, width: int, kernel_size: int, stride: int = 1, groups: int = 1
) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """A convolution, padded to cover every pixel, and its BN."""
    padding = kernel_size // 2
    return (
        nn.Conv2d(in_width, width, kernel_size, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(width),
    )


class LocalResponseNorm(nn.LocalResponseNorm):
    """x / (k + alpha/size * sum of x^2 over `size` neighbouring channels)^beta, as torch defines it.

    torch's own pools over channels in three dimensions; adding shifted maps takes half as long.
    """

    def forward(self, x: Tensor) -> Tensor:
        before = self.size // 2
        squares = F.pad(x.square(), (0, 0, 0, 0, before, self.size - 1 - before))
        first, *others = (self._shifted(squares, shift, x.shape[1]) for shift in range(self.size))
        total = sum(others, start=first)
        return x * (self.k + self.alpha / self.size * total).pow(-self.beta)

    def _shifted(self, squares: Tensor, shift: int, width: int) -> Tensor:
        """The channels from `shift` on. Cutting is padding by less than nothing: slower than a view, but
        the gradient of a view would not be channels_last.
        """
        if squares.requires_grad:
            return F.pad(squares, (0, 0, 0, 0, -shift, shift + 1 - self.size))
        return squares.narrow(1, shift, width)


class GlobalAveragePool(nn.Module):
    """The mean of each map, [N, C, H, W] -> [N, C, 1, 1].

    Over maps in channels_last it is taken as of [N, HW, C], so that its gradient is channels_last
    too: that of a mean over the last two axes is in torch's default format.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.is_contiguous(memory_format=torch.channels_last):
            return x.flatten(2).transpose(1, 2).mean(1)[:, :, None, None]
        return x.mean((2, 3), keepdim=True)


class AdaptiveAveragePool(nn.AdaptiveAvgPool2d):
    """torch's, with a gradient that is the same each time on GPUs, too: there torch's own is not, and
    deterministic=true refuses it.
    """

    def __init__(self, side: int) -> None:
        super().__init__(side)
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.device.type == "cpu" else window_means(x, self.side)


def window_means(x: Tensor, side: int) -> Tensor:
    """[N, C, H, W] -> [N, C, side, side]: what adaptive average pooling gives, of means and pools alone.

    A map of `side` pixels is returned as it is. Neighbouring windows share pixels where `side` does not
    divide the map's.
    """
    height, width = x.shape[2:]
    if height % side == 0 and width % side == 0:
        sizes = height // side, width // side
        return x if sizes == (1, 1) else F.avg_pool2d(x, sizes)

    def windows(size: int) -> list[slice]:
        return [slice(i * size // side, -(-(i + 1) * size // side)) for i in range(side)]

    rows = torch.cat([x[:, :, window].mean(2, keepdim=True) for window in windows(height)], dim=2)
    pooled = torch.cat([rows[..., window].mean(3, keepdim=True) for window in windows(width)], dim=3)
    is_channels_last = x.is_contiguous(memory_format=torch.channels_last)
    return pooled.contiguous(memory_format=torch.channels_last) if is_channels_last else pooled


class SqueezeExcite(nn.Module):
    """Gate each channel by all channels' means (Hu et al. 2018, arXiv:1709.01507, section 3).

    The two layers are 1x1 convolutions with biases: linear layers on [N, channels, 1, 1].
    """

    def __init__(self, channels: int, squeezed: int, activation: Callable[[], nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, kernel_size=1)
        self.activation = activation()
        self.expand = nn.Conv2d(squeezed, channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.expand(self.activation(self.reduce(self.squeeze(x))))
        return x * gate.sigmoid()

    def squeeze(self, x: Tensor) -> Tensor:
        """The mean of each map, as a sum: its gradient is a view of one value a channel, where a mean's
        is a whole map to write and read. In float32 at least, since sums of float16 overflow.
        """
        total = x.sum((2, 3), keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
        return (total / (x.shape[2] * x.shape[3])).to(x.dtype)


class ConvNormActivation(nn.Sequential):
    """A convolution without bias, batch norm, an activation (None: no activation).

    Padded by half the kernel, so that stride 1 keeps the size.
    """

    def __init__(
        self,
        in_width: int,
        width: int,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        *,
        activation: Callable[[], nn.Module] | None,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
        convolution: type[nn.Conv2d] = nn.Conv2d,
    ) -> None:
        padding = kernel_size // 2
        layers = [
            convolution(in_width, width, kernel_size, stride, padding, groups=groups, bias=False),
            norm(width),
        ]
        super().__init__(*layers, *([activation()] if activation else []))


def scaled_width(width: int, multiplier: float, multiple_of: int = 8, *, never_below: float = 0.9) -> int:
    """The multiple nearest to width * multiplier, or the next one up if that is too small.

    Too small is below `never_below` of the product: the 90% rule of MobileNetV2 and EfficientNet,
    which EfficientNetV2 turns off with 0.
    """
    if not 0 < multiplier < math.inf:
        raise UserError(f"width={multiplier}: a multiplier is above 0, and 1 for the published net")
    exact = width * multiplier
    rounded = max(multiple_of, int(exact / multiple_of + 0.5) * multiple_of)
    return rounded if rounded >= never_below * exact else rounded + multiple_of


def scaled_depth(depth: int, multiplier: float) -> int:
    """depth * multiplier blocks, rounded up; 10 * 1.1 are 11 in spite of floating point."""
    if not 0 < multiplier < math.inf:
        raise UserError(f"depth={multiplier}: a multiplier is above 0, and 1 for the published net")
    return math.ceil(round(depth * multiplier, 6))
