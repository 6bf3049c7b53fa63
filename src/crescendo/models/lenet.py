"""LeNet-5 (LeCun, Bottou, Bengio & Haffner 1998, "Gradient-Based Learning Applied to Document
Recognition", Proceedings of the IEEE 86(11)), section II.B, Fig. 2, Table I, appendix A.

    layer           C1     S2     C3     S4     C5    F6   output
    maps             6      6     16     16    120    84   num_classes
    size         28x28  14x14  10x10    5x5    1x1
    parameters     156     12   1516     32  48120 10164   0

The output is one radial basis unit a class: the squared distance of F6's 84 values to a fixed
bitmap of the digit, and the logits are minus that distance. They start near -84, all alike;
softmax sees only their differences, 2 f . (w_i - w_j), so plain cross-entropy on them starts near
log(num_classes) and is the paper's equation 9 without its constant e^-j (the "rubbish class",
which keeps distances that are already large from being pushed up further).
Deviations: the bitmaps are drawn after Figure 3, not copied dot for dot; other class counts than
ten get seeded random +-1 codes instead, which the paper offers as the alternative to bitmaps.

lenet5_modern keeps the layer sizes and replaces what has gone out of use: C3 is connected to all
maps, subsampling is average pooling, tanh is ReLU, the output is linear, initialisation is He's
by fan-in (arXiv:1502.01852), and C1 is padded by 2, so that 28 px need no border.
"""

from collections.abc import Callable
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crescendo.models.layers import AdaptiveAveragePool, Net
from crescendo.models.registry import register

FAMILY = "LeNet"
YEAR = 1998

# Table I: the maps of S2 that each map of C3 sees.
TABLE_1 = (
    (0, 1, 2),
    (1, 2, 3),
    (2, 3, 4),
    (3, 4, 5),
    (4, 5, 0),
    (5, 0, 1),
    (0, 1, 2, 3),
    (1, 2, 3, 4),
    (2, 3, 4, 5),
    (3, 4, 5, 0),
    (4, 5, 0, 1),
    (5, 0, 1, 2),
    (0, 1, 3, 4),
    (1, 2, 4, 5),
    (0, 2, 3, 5),
    (0, 1, 2, 3, 4, 5),
)

# After Figure 3: 0 to 4 and 5 to 9, each 7 wide and 12 high.
BITMAPS = (
    """
    ....... ....... ....... ....... .......
    ..###.. ...##.. .#####. .#####. .....#.
    .##.##. ..###.. ##...## ##...## ....##.
    ##...## .####.. ##...## .....## ...###.
    ##...## ...##.. .....## .....## ..####.
    ##...## ...##.. ....##. ..####. .##.##.
    ##...## ...##.. ...##.. .....## ##..##.
    ##...## ...##.. ..##... .....## #######
    .##.##. ...##.. .##.... ##...## ....##.
    ..###.. .###### ####### .#####. ....##.
    ....... ....... ....... ....... .......
    ....... ....... ....... ....... .......
    """,
    """
    ....... ....... ....... ....... .......
    ####### ..####. ####### .#####. .#####.
    ##..... .##.... ##...## ##...## ##...##
    ##..... ##..... .....## ##...## ##...##
    ######. ##..... ....##. .##.##. ##...##
    .....## ######. ....##. ..###.. .######
    .....## ##...## ...##.. .##.##. .....##
    .....## ##...## ...##.. ##...## .....##
    ##...## ##...## ..##... ##...## ....##.
    .#####. .#####. ..##... .#####. .####..
    ....... ....... ....... ....... .......
    ....... ....... ....... ....... .......
    """,
)


def digit_codes() -> Tensor:
    """The ten bitmaps row by row, [10, 84], ink +1 and paper -1."""
    codes = []
    for five in BITMAPS:
        for digit in zip(*(line.split() for line in five.split("\n") if line.strip()), strict=True):
            codes.append([1.0 if dot == "#" else -1.0 for dot in "".join(digit)])
    return torch.tensor(codes, device="cpu")


def random_codes(num_classes: int) -> Tensor:
    """[num_classes, 84] of +-1, always the same ones, drawn without the global generator."""
    generator = torch.Generator(device="cpu").manual_seed(1998)
    shape = (num_classes, 84)
    return 2.0 * torch.randint(2, shape, generator=generator, device="cpu") - 1


class ScaledTanh(nn.Module):
    """1.7159 tanh(2x/3), equation 6: +-1 maps to +-1, where the curvature is largest."""

    def forward(self, x: Tensor) -> Tensor:
        return 1.7159 * torch.tanh(x * (2 / 3))


class Subsampling(nn.Module):
    """The sum of each 2x2 patch, times a trainable gain a map, plus a trainable bias a map."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(maps))
        self.bias = nn.Parameter(torch.zeros(maps))

    def forward(self, x: Tensor) -> Tensor:
        x = 4 * F.avg_pool2d(x, 2)
        return x * self.gain[:, None, None] + self.bias[:, None, None]


class PartialConvolution(nn.Module):
    """C3: 5x5 over the maps of Table I, [N, 6, 14, 14] -> [N, 16, 10, 10].

    The maps are gathered once, 60 of them; rows of equal length are one grouped convolution.
    The table stays out of the buffers, since averaging weights would round its integers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.inputs = [map_ for row in TABLE_1 for map_ in row]
        self.threes = nn.Conv2d(18, 6, 5, groups=6)
        self.fours = nn.Conv2d(36, 9, 5, groups=9)
        self.six = nn.Conv2d(6, 1, 5)

    def forward(self, x: Tensor) -> Tensor:
        maps = x.unbind(1)
        gathered = torch.stack([maps[map_] for map_ in self.inputs], dim=1)
        threes, fours, six = gathered.split((18, 36, 6), dim=1)
        return torch.cat((self.threes(threes), self.fours(fours), self.six(six)), dim=1)


class RadialBasis(nn.Module):
    """Minus the squared distance to each class's fixed code, [N, 84] -> [N, num_classes].

    In float32 or better: at -84 bfloat16 would round the logits to halves.
    """

    codes: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.register_buffer("codes", torch.empty(num_classes, 84), persistent=False)
        self.fill()

    def fill(self) -> None:
        codes = digit_codes() if self.num_classes == 10 else random_codes(self.num_classes)
        self.codes.copy_(codes)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        return -(x[:, None, :] - self.codes).square().sum(dim=-1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moved, cast, or materialised from the meta device: the codes are written again."""
        super()._apply(fn, recurse)
        self.fill()
        return self


class LeNet5(Net):
    """C1, S2, C3, S4, C5, F6, output; scaled tanh after all but the output. 32 px only."""

    resolution = 32
    min_resolution = 32
    max_resolution = 32

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(in_channels, 6, 5)
        self.s2 = Subsampling(6)
        self.c3 = PartialConvolution()
        self.s4 = Subsampling(16)
        self.c5 = nn.Conv2d(16, 120, 5)
        self.f6 = nn.Linear(120, 84)
        self.output = RadialBasis(num_classes)
        self.squash = ScaledTanh()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """All weights and biases uniform within +-2.4/fan_in of their unit (appendix A)."""
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                bound = 2.4 / layer.weight[0].numel()
            elif isinstance(layer, Subsampling):
                bound = 2.4 / 4
            else:
                continue
            for parameter in layer.parameters():
                nn.init.uniform_(parameter, -bound, bound)

    def readers(self) -> list[nn.Module]:
        return [self.s2, self.s4]

    def forward(self, x: Tensor) -> Tensor:
        """x [N, C, 32, 32] -> logits [N, num_classes]."""
        if x.shape[-2:] != (32, 32):
            raise ValueError(f"lenet5 takes 32x32 pixels, not {x.shape[-2]}x{x.shape[-1]}")
        x = self.squash(self.s2(self.squash(self.c1(x))))
        x = self.squash(self.s4(self.squash(self.c3(x))))
        x = self.squash(self.f6(self.squash(self.c5(x)).flatten(1)))
        return self.output(x)


class LeNet5Modern(Net):
    """C1, pool, C3, pool, C5, F6, linear output; ReLU in between."""

    resolution = 28
    min_resolution = 28  # below it C5's 5x5 window would see less than 5x5 pixels

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(in_channels, 6, 5, padding=2)
        self.s2 = nn.AvgPool2d(2)
        self.c3 = nn.Conv2d(6, 16, 5)
        self.s4 = nn.AvgPool2d(2)
        self.pool = AdaptiveAveragePool(5)
        self.c5 = nn.Conv2d(16, 120, 5)
        self.f6 = nn.Linear(120, 84)
        self.output = nn.Linear(84, num_classes)
        for layer in (self.c1, self.c3, self.c5, self.f6):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def readers(self) -> list[nn.Module]:
        return [self.s2, self.s4]

    def forward(self, x: Tensor) -> Tensor:
        """x [N, C, 28, 28] -> [N, 6, 14, 14] -> [N, 16, 5, 5] -> [N, 120, 1, 1] -> logits."""
        x = self.s2(F.relu(self.c1(x)))
        x = self.s4(F.relu(self.c3(x)))
        x = F.relu(self.c5(self.pool(x))).flatten(1)
        return self.output(F.relu(self.f6(x)))


@register
def lenet5(num_classes: int = 10, in_channels: int = 1) -> LeNet5:
    """LeNet-5 as published, 60,000 parameters at 10 classes and 1 channel."""
    return LeNet5(num_classes, in_channels)


@register
def lenet5_modern(num_classes: int = 10, in_channels: int = 1) -> LeNet5Modern:
    """LeNet-5 in today's layers, 61,706 parameters at 10 classes and 1 channel."""
    return LeNet5Modern(num_classes, in_channels)
