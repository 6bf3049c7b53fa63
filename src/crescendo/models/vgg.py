"""VGG (Simonyan & Zisserman 2014, "Very Deep Convolutional Networks for Large-Scale Image
Recognition", arXiv:1409.1556), Table 1, columns A, B, D and E: 11, 13, 16 and 19 weight layers.

    size at 224 px  224x224 112x112  56x56  28x28  14x14    7x7
    filters              64     128    256    512    512   head: 4096, 4096, num_classes

Each stage is a row of 3x3 convolutions and a 2x2 max pool. The _bn nets, with a batch norm behind
each convolution, came later and are torchvision's.
Deviations: the convolutions are initialised as He et al. 2015, the linear layers as Glorot & Bengio
2010, where the paper starts a deep net from the weights of a shallow one; behind the last pool the
maps are resized to 7x7 (the identity at 224 px).

`width` scales filters and hidden linear layers, to the nearest multiple of 8 that is not below 90% of
the product; `depth` scales each stage's number of convolutions, rounded up: EfficientNet's rounding
(arXiv:1905.11946). The paper scales neither.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from crescendo.models.layers import (
    AdaptiveAveragePool,
    Dropout,
    Net,
    initialize_he,
    scaled_depth,
    scaled_width,
)
from crescendo.models.registry import register

FAMILY = "VGG"
YEAR = 2014


class Stage(NamedTuple):
    """`depth` 3x3 convolutions of `width` filters each, and a 2x2 max pool."""

    width: int
    depth: int


# fmt: off
# Table 1         conv1         conv2          conv3          conv4          conv5
VGG_A = (Stage(64, 1), Stage(128, 1), Stage(256, 2), Stage(512, 2), Stage(512, 2))
VGG_B = (Stage(64, 2), Stage(128, 2), Stage(256, 2), Stage(512, 2), Stage(512, 2))
VGG_D = (Stage(64, 2), Stage(128, 2), Stage(256, 3), Stage(512, 3), Stage(512, 3))
VGG_E = (Stage(64, 2), Stage(128, 2), Stage(256, 4), Stage(512, 4), Stage(512, 4))
# fmt: on

HIDDEN = 4096


class VGG(Net):
    """Five stages, 7x7 maps, and a head of three linear layers."""

    resolution = 224
    min_resolution = 32

    def __init__(
        self,
        stages: Sequence[Stage],
        num_classes: int,
        in_channels: int,
        width: float = 1.0,
        depth: float = 1.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.stages = nn.Sequential()
        in_width = in_channels
        for row in stages:
            stage_width = scaled_width(row.width, width)
            stage = nn.Sequential()
            for _ in range(scaled_depth(row.depth, depth)):
                stage.append(nn.Conv2d(in_width, stage_width, 3, padding=1))
                if batch_norm:
                    stage.append(nn.BatchNorm2d(stage_width))
                stage.append(nn.ReLU(inplace=True))
                in_width = stage_width
            stage.append(nn.MaxPool2d(2))
            self.stages.append(stage)
        self.pool = AdaptiveAveragePool(7)
        hidden = scaled_width(HIDDEN, width)
        self.head = nn.Sequential(
            nn.Linear(in_width * 7 * 7, hidden),
            nn.ReLU(inplace=True),
            Dropout(0.5),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            Dropout(0.5),
            nn.Linear(hidden, num_classes),
        )
        initialize_he(self)
        for layer in self.head:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight)
                nn.init.zeros_(layer.bias)

    def readers(self) -> list[nn.Module]:
        """Each stage's own pool: its last convolution's maps are twice as fine."""
        return [stage[-1] for stage in self.stages]  # type: ignore[index]

    def forward(self, x: Tensor) -> Tensor:
        """x [N, C, H, W] -> [N, 512, H/32, W/32] -> [N, 512, 7, 7] -> [N, num_classes]."""
        return self.head(self.pool(self.stages(x)).flatten(1))


@register
def vgg11(num_classes: int = 1000, in_channels: int = 3, width: float = 1.0, depth: float = 1.0) -> VGG:
    """VGG-11, column A: 132,863,336 parameters at 1000 classes."""
    return VGG(VGG_A, num_classes, in_channels, width, depth)


@register
def vgg13(num_classes: int = 1000, in_channels: int = 3, width: float = 1.0, depth: float = 1.0) -> VGG:
    """VGG-13, column B: 133,047,848 parameters at 1000 classes."""
    return VGG(VGG_B, num_classes, in_channels, width, depth)


@register
def vgg16(num_classes: int = 1000, in_channels: int = 3, width: float = 1.0, depth: float = 1.0) -> VGG:
    """VGG-16, column D: 138,357,544 parameters at 1000 classes."""
    return VGG(VGG_D, num_classes, in_channels, width, depth)


@register
def vgg19(num_classes: int = 1000, in_channels: int = 3, width: float = 1.0, depth: float = 1.0) -> VGG:
    """VGG-19, column E: 143,667,240 parameters at 1000 classes."""
    return VGG(VGG_E, num_classes, in_channels, width, depth)


@register
def vgg11_bn(num_classes: int = 1000, in_channels: int = 3, width: float = 1.0, depth: float = 1.0) -> VGG:
    """VGG-11 with batch norm: 132,868,840 parameters at 1000 classes."""
    return VGG(VGG_A, num_classes, in_channels, width, depth, batch_norm=True)


@register
def vgg13_bn(num_classes: int = 1000, in_channels: int = 3, width: float = 1.0, depth: float = 1.0) -> VGG:
    """VGG-13 with batch norm: 133,053,736 parameters at 1000 classes."""
    return VGG(VGG_B, num_classes, in_channels, width, depth, batch_norm=True)


@register
def vgg16_bn(num_classes: int = 1000, in_channels: int = 3, width: float = 1.0, depth: float = 1.0) -> VGG:
    """VGG-16 with batch norm: 138,365,992 parameters at 1000 classes."""
    return VGG(VGG_D, num_classes, in_channels, width, depth, batch_norm=True)


@register
def vgg19_bn(num_classes: int = 1000, in_channels: int = 3, width: float = 1.0, depth: float = 1.0) -> VGG:
    """VGG-19 with batch norm: 143,678,248 parameters at 1000 classes."""
    return VGG(VGG_E, num_classes, in_channels, width, depth, batch_norm=True)
