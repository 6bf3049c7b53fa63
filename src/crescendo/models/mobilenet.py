"""MobileNetV2 (Sandler, Howard, Zhu, Zhmoginov & Chen 2018, "MobileNetV2: Inverted Residuals and
Linear Bottlenecks", arXiv:1801.04381), Tables 1 and 2.

`width` is the paper's multiplier: multiples of 8, never below 90% of the product, and the last
convolution keeps its 1280 filters below 1. `depth` multiplies the blocks of every stage, rounded
up, as the EfficientNet paper scales this net (arXiv:1905.11946, Table 3).
Deviations: a residual block can be dropped (stochastic depth, Huang et al. 2016; the published
rate is 0, which is this paper's net); the head's dropout of 0.2 and its initialisation are
torchvision's, convolutions are initialised as He et al. 2015, since the paper does not say.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from torch import Tensor, nn

from crescendo.models.layers import (
    ConvNormActivation,
    Dropout,
    DropPath,
    GlobalAveragePool,
    Net,
    initialize_he,
    scaled_depth,
    scaled_width,
)
from crescendo.models.registry import register

FAMILY = "MobileNetV2"
YEAR = 2018


class Stage(NamedTuple):
    expansion: int  # the paper's t
    width: int  # c
    depth: int  # n
    stride: int  # s, of the first block


# exp  width depth stride
TABLE_2 = (
    Stage(1,  16, 1, 1),
    Stage(6,  24, 2, 2),
    Stage(6,  32, 3, 2),
    Stage(6,  64, 4, 2),
    Stage(6,  96, 3, 1),
    Stage(6, 160, 3, 2),
    Stage(6, 320, 1, 1),
)  # fmt: skip

relu6 = partial(nn.ReLU6, inplace=True)


class Bottleneck(nn.Module):
    """1x1 expand (unless by 1), 3x3 depthwise, 1x1 project without activation, drop path, plus x.

    Without drop path and x where stride or width change.
    """

    def __init__(self, in_width: int, width: int, expansion: int, stride: int, share: float) -> None:
        super().__init__()
        wide = expansion * in_width
        self.layers = nn.Sequential()
        if expansion != 1:
            self.layers.append(ConvNormActivation(in_width, wide, activation=relu6))
        self.layers.append(ConvNormActivation(wide, wide, 3, stride, groups=wide, activation=relu6))
        self.layers.append(ConvNormActivation(wide, width, activation=None))
        self.drop_path = DropPath(0.0, share) if stride == 1 and in_width == width else None

    def forward(self, x: Tensor) -> Tensor:
        if self.drop_path is None:
            return self.layers(x)
        return self.drop_path(self.layers(x)).add_(x)


class MobileNetV2(Net):
    """Stem (3x3, stride 2), stages of bottlenecks, last 1x1 convolution, pool, dropout, head.

    Block l of L is dropped at l/L of the drop path rate (Huang et al. 2016, equation 4).
    """

    resolution = 224
    min_resolution = 32

    def __init__(
        self,
        stages: Sequence[Stage],
        stem: int,
        last: int,
        dropout: float,
        num_classes: int,
        in_channels: int,
    ) -> None:
        super().__init__()
        self.stem = ConvNormActivation(in_channels, stem, 3, stride=2, activation=relu6)
        self.stages = nn.Sequential()
        in_width, block, blocks = stem, 0, sum(row.depth for row in stages)
        for row in stages:
            stage = nn.Sequential()
            for stride in [row.stride] + [1] * (row.depth - 1):
                block += 1
                stage.append(Bottleneck(in_width, row.width, row.expansion, stride, share=block / blocks))
                in_width = row.width
            self.stages.append(stage)
        self.last_conv = ConvNormActivation(in_width, last, activation=relu6)
        self.pool = GlobalAveragePool()
        self.dropout = Dropout(dropout)
        self.head = nn.Linear(last, num_classes)
        initialize_he(self)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x [N, C, H, W] -> [N, 32, H/2, W/2] -> [N, 320, H/32, W/32] -> [N, num_classes]."""
        x = self.stem(x)
        for stage in self.stages:  # as one call they would hold the stem's output to the end
            x = stage(x)
        return self.head(self.dropout(self.pool(self.last_conv(x)).flatten(1)))


@register
def mobilenet_v2(
    num_classes: int = 1000, in_channels: int = 3, width: float = 1.0, depth: float = 1.0
) -> MobileNetV2:
    """MobileNetV2, 3.5 M parameters at 1000 classes."""
    stages = [
        row._replace(width=scaled_width(row.width, width), depth=scaled_depth(row.depth, depth))
        for row in TABLE_2
    ]
    stem, last = scaled_width(32, width), scaled_width(1280, max(1.0, width))
    return MobileNetV2(stages, stem, last, 0.2, num_classes, in_channels)
