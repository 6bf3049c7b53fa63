"""ResNets and plain nets for ImageNet (He, Zhang, Ren & Sun 2015, "Deep Residual Learning for
Image Recognition", arXiv:1512.03385), section 4.1 and Table 1.

A 7x7 stem and its pool, four stages of two-layer or three-layer blocks, a linear head. The plain
nets are the paper's control: the same tables without the shortcuts.
Deviations: a three-layer block's stride is on its 3x3, as in torchvision (the authors' release has
it on the first 1x1); a shortcut to another width is a projection also in ResNet-18 and 34 (the
paper's option B); a residual block can be dropped (stochastic depth, Huang et al. 2016; the
published rate is 0, which is this paper's net); the linear layer is initialised as torch does.

Not in the paper, at 1 and False its own net: `width` multiplies every width, each rounded to the
nearest multiple of 8 (of the groups too, where there are any) that is not below 90% of the product,
and `depth` the blocks of every stage, rounded up: EfficientNet's rounding (arXiv:1905.11946).
`zero_init` starts the last BN gain of each residual branch at 0 (Goyal et al. 2017,
arXiv:1706.02677), so that a block starts as its shortcut.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from crescendo.models.layers import (
    DropPath,
    GlobalAveragePool,
    Net,
    convolution,
    initialize_he,
    scaled_depth,
    scaled_width,
)
from crescendo.models.registry import register

FAMILY = "ResNet"
YEAR = 2015


class Stage(NamedTuple):
    """Blocks of one width. The stride is the first block's, the others have 1."""

    branch: Callable[[int, "Stage", int], nn.Sequential]
    width: int  # inside a block
    out_width: int
    depth: int
    stride: int
    groups: int = 1  # of the 3x3
    projection: int = 1  # kernel size of a shortcut to another shape

    def scaled(self, width: float, depth: float) -> "Stage":
        return self._replace(
            width=scaled_width(self.width, width, math.lcm(8, self.groups)),
            out_width=scaled_width(self.out_width, width),
            depth=scaled_depth(self.depth, depth),
        )


def basic(in_width: int, stage: Stage, stride: int) -> nn.Sequential:
    """3x3 with the stride, BN, ReLU, 3x3, BN."""
    return nn.Sequential(
        *convolution(in_width, stage.width, 3, stride),
        nn.ReLU(inplace=True),
        *convolution(stage.width, stage.out_width, 3),
    )


def bottleneck(in_width: int, stage: Stage, stride: int) -> nn.Sequential:
    """1x1, BN, ReLU, 3x3 with the stride and the groups, BN, ReLU, 1x1, BN."""
    return nn.Sequential(
        *convolution(in_width, stage.width, 1),
        nn.ReLU(inplace=True),
        *convolution(stage.width, stage.width, 3, stride, stage.groups),
        nn.ReLU(inplace=True),
        *convolution(stage.width, stage.out_width, 1),
    )


def with_depths(stages: Sequence[Stage], *depths: int) -> tuple[Stage, ...]:
    """The same rows with other numbers of blocks."""
    return tuple(stage._replace(depth=depth) for stage, depth in zip(stages, depths, strict=True))


# Table 1, conv2_x to conv5_x.
# fmt: off
RESNET_18 = (
    #     branch   width   out depth stride
    Stage(basic,      64,   64,  2,  1),
    Stage(basic,     128,  128,  2,  2),
    Stage(basic,     256,  256,  2,  2),
    Stage(basic,     512,  512,  2,  2),
)
RESNET_34 = with_depths(RESNET_18, 3, 4, 6, 3)
RESNET_50 = (
    Stage(bottleneck, 64,  256,  3,  1),
    Stage(bottleneck, 128, 512,  4,  2),
    Stage(bottleneck, 256, 1024, 6,  2),
    Stage(bottleneck, 512, 2048, 3,  2),
)
RESNET_101 = with_depths(RESNET_50, 3, 4, 23, 3)
RESNET_152 = with_depths(RESNET_50, 3, 8, 36, 3)
# fmt: on


class PlainBlock(nn.Module):
    """Branch, ReLU."""

    def __init__(self, in_width: int, stage: Stage, stride: int) -> None:
        super().__init__()
        self.branch = stage.branch(in_width, stage, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.branch(x), inplace=True)


class ResidualBlock(PlainBlock):
    """Branch, drop path, plus the shortcut, ReLU. The shortcut is projected where shapes differ."""

    def __init__(self, in_width: int, stage: Stage, stride: int, share: float, zero_init: bool) -> None:
        super().__init__(in_width, stage, stride)
        self.drop_path = DropPath(0.0, share)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_width != stage.out_width:
            self.shortcut = nn.Sequential(*convolution(in_width, stage.out_width, stage.projection, stride))
        if zero_init:
            last_norm = [layer for layer in self.branch if isinstance(layer, nn.BatchNorm2d)][-1]
            nn.init.zeros_(last_norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.drop_path(self.branch(x)).add_(self.shortcut(x)), inplace=True)


class ResNet(Net):
    """Stem, one stage for each row, pool, head; without shortcuts if not `residual`.

    Block l of L is dropped at l/L of the drop path rate (Huang et al. 2016, equation 4).
    """

    resolution = 224
    min_resolution = 32
    stem_width = 64

    def __init__(
        self,
        stages: Sequence[Stage],
        num_classes: int,
        in_channels: int,
        width: float = 1,
        depth: float = 1,
        zero_init: bool = False,
        residual: bool = True,
    ) -> None:
        super().__init__()
        rows = [stage.scaled(width, depth) for stage in stages]
        blocks, block = sum(row.depth for row in rows), 0
        in_width = scaled_width(self.stem_width, width)
        self.stem = self.build_stem(in_channels, in_width)
        self.stages = nn.Sequential()
        for row in rows:
            stage = nn.Sequential()
            for stride in [row.stride] + [1] * (row.depth - 1):
                block += 1
                stage.append(
                    ResidualBlock(in_width, row, stride, block / blocks, zero_init)
                    if residual
                    else PlainBlock(in_width, row, stride)
                )
                in_width = row.out_width
            self.stages.append(stage)
        self.pool = GlobalAveragePool()
        self.head = self.build_head(in_width, num_classes)
        initialize_he(self)

    def build_stem(self, in_channels: int, width: int) -> nn.Sequential:
        """7x7 with stride 2, BN, ReLU, 3x3 pool with stride 2."""
        return nn.Sequential(
            *convolution(in_channels, width, 7, stride=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        )

    def build_head(self, width: int, num_classes: int) -> nn.Module:
        return nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """x [N, C, H, W] -> [N, 64, H/4, W/4] -> [N, out_width, H/32, W/32] -> [N, num_classes]."""
        x = self.stem(x)
        for stage in self.stages:  # as one call they would hold the stem's output to the end
            x = stage(x)
        return self.head(self.pool(x).flatten(1))


@register
def resnet18(
    num_classes: int = 1000, in_channels: int = 3, width: float = 1, depth: float = 1, zero_init: bool = False
) -> ResNet:
    """ResNet-18, 11.7 M parameters at 1000 classes."""
    return ResNet(RESNET_18, num_classes, in_channels, width, depth, zero_init)


@register
def resnet34(
    num_classes: int = 1000, in_channels: int = 3, width: float = 1, depth: float = 1, zero_init: bool = False
) -> ResNet:
    """ResNet-34, 21.8 M parameters at 1000 classes."""
    return ResNet(RESNET_34, num_classes, in_channels, width, depth, zero_init)


@register
def resnet50(
    num_classes: int = 1000, in_channels: int = 3, width: float = 1, depth: float = 1, zero_init: bool = False
) -> ResNet:
    """ResNet-50, 25.6 M parameters at 1000 classes."""
    return ResNet(RESNET_50, num_classes, in_channels, width, depth, zero_init)


@register
def resnet101(
    num_classes: int = 1000, in_channels: int = 3, width: float = 1, depth: float = 1, zero_init: bool = False
) -> ResNet:
    """ResNet-101, 44.5 M parameters at 1000 classes."""
    return ResNet(RESNET_101, num_classes, in_channels, width, depth, zero_init)


@register
def resnet152(
    num_classes: int = 1000, in_channels: int = 3, width: float = 1, depth: float = 1, zero_init: bool = False
) -> ResNet:
    """ResNet-152, 60.2 M parameters at 1000 classes."""
    return ResNet(RESNET_152, num_classes, in_channels, width, depth, zero_init)


@register
def plain18(num_classes: int = 1000, in_channels: int = 3, width: float = 1, depth: float = 1) -> ResNet:
    """ResNet-18 without its shortcuts, 11.5 M parameters at 1000 classes."""
    return ResNet(RESNET_18, num_classes, in_channels, width, depth, residual=False)


@register
def plain34(num_classes: int = 1000, in_channels: int = 3, width: float = 1, depth: float = 1) -> ResNet:
    """ResNet-34 without its shortcuts, 21.6 M parameters at 1000 classes."""
    return ResNet(RESNET_34, num_classes, in_channels, width, depth, residual=False)
