"""EfficientNet-Lite 0 to 4 (the authors' code of 2020, tensorflow/tpu, efficientnet/lite): Table 1
of EfficientNet (Tan & Le 2019, arXiv:1905.11946) without squeeze-excitation and with ReLU6, for
devices that do neither sigmoids nor global means well.

Lite1 to Lite4 are scaled as B1 to B4, but for the stem, the last convolution, and the depths of
the first and the last stage. `width` and `depth` multiply a net's own coefficients.
Deviation: padding and batch norm are torchvision's; TensorFlow's weights want same_padding=True
and eps=1e-3. The authors' batch norm has momentum 0.01 in torch's sense, here it is 0.1.
"""

from functools import partial
from typing import NamedTuple

from torch import nn

from crescendo.models.efficientnet import EfficientNet, Stage, scaled_stages
from crescendo.models.registry import register

FAMILY = "EfficientNet-Lite"
YEAR = 2020

#         block    exp  k  s width depth  se
TABLE_1 = (
    Stage("mbconv", 1, 3, 1,  16,    1, 0.0),
    Stage("mbconv", 6, 3, 2,  24,    2, 0.0),
    Stage("mbconv", 6, 5, 2,  40,    2, 0.0),
    Stage("mbconv", 6, 3, 2,  80,    3, 0.0),
    Stage("mbconv", 6, 5, 1, 112,    3, 0.0),
    Stage("mbconv", 6, 5, 2, 192,    4, 0.0),
    Stage("mbconv", 6, 3, 1, 320,    1, 0.0),
)  # fmt: skip


class Variant(NamedTuple):
    width: float
    depth: float
    resolution: int
    dropout: float


#             width depth  px drop
LITE0 = Variant(1.0, 1.0, 224, 0.2)
LITE1 = Variant(1.0, 1.1, 240, 0.2)
LITE2 = Variant(1.1, 1.2, 260, 0.3)
LITE3 = Variant(1.2, 1.4, 280, 0.3)
LITE4 = Variant(1.4, 1.8, 300, 0.3)


def scaled(
    variant: Variant,
    num_classes: int,
    in_channels: int,
    width: float,
    depth: float,
    same_padding: bool,
    eps: float,
) -> EfficientNet:
    """Lite0 at the variant's coefficients times `width` and `depth`."""
    stages = scaled_stages(TABLE_1, variant.width * width, variant.depth * depth)
    for end in (0, -1):
        stages[end] = stages[end]._replace(depth=TABLE_1[end].depth)
    net = EfficientNet(
        stages,
        stem=32,
        last=1280,
        num_classes=num_classes,
        in_channels=in_channels,
        dropout=variant.dropout,
        activation=partial(nn.ReLU6, inplace=True),
        eps=eps,
        same_padding=same_padding,
    )
    net.resolution = variant.resolution
    return net


@register
def efficientnet_lite0(
    num_classes: int = 1000,
    in_channels: int = 3,
    width: float = 1.0,
    depth: float = 1.0,
    same_padding: bool = False,
    eps: float = 1e-5,
) -> EfficientNet:
    """EfficientNet-Lite0, 4.7 M parameters at 1000 classes."""
    return scaled(LITE0, num_classes, in_channels, width, depth, same_padding, eps)


@register
def efficientnet_lite1(
    num_classes: int = 1000,
    in_channels: int = 3,
    width: float = 1.0,
    depth: float = 1.0,
    same_padding: bool = False,
    eps: float = 1e-5,
) -> EfficientNet:
    """EfficientNet-Lite1, 5.4 M parameters at 1000 classes."""
    return scaled(LITE1, num_classes, in_channels, width, depth, same_padding, eps)


@register
def efficientnet_lite2(
    num_classes: int = 1000,
    in_channels: int = 3,
    width: float = 1.0,
    depth: float = 1.0,
    same_padding: bool = False,
    eps: float = 1e-5,
) -> EfficientNet:
    """EfficientNet-Lite2, 6.1 M parameters at 1000 classes."""
    return scaled(LITE2, num_classes, in_channels, width, depth, same_padding, eps)


@register
def efficientnet_lite3(
    num_classes: int = 1000,
    in_channels: int = 3,
    width: float = 1.0,
    depth: float = 1.0,
    same_padding: bool = False,
    eps: float = 1e-5,
) -> EfficientNet:
    """EfficientNet-Lite3, 8.2 M parameters at 1000 classes."""
    return scaled(LITE3, num_classes, in_channels, width, depth, same_padding, eps)


@register
def efficientnet_lite4(
    num_classes: int = 1000,
    in_channels: int = 3,
    width: float = 1.0,
    depth: float = 1.0,
    same_padding: bool = False,
    eps: float = 1e-5,
) -> EfficientNet:
    """EfficientNet-Lite4, 13.0 M parameters at 1000 classes."""
    return scaled(LITE4, num_classes, in_channels, width, depth, same_padding, eps)
