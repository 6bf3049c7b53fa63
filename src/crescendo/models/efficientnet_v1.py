"""EfficientNet B0 to B7 (Tan & Le 2019, "EfficientNet: Rethinking Model Scaling for Convolutional
Neural Networks", arXiv:1905.11946), Table 1. Blocks and net are in efficientnet.py.

B1 to B7 are B0 with its widths multiplied (to multiples of 8, never below 90% of the product) and
its depths (rounded up). `width` and `depth` multiply a net's own coefficients, `fused_stages` makes
its first stages Fused-MBConv: 3, 5 and 7 are the ablation of the EfficientNetV2 paper.
Deviation: batch norm and padding are torchvision's, B0 to B4 with eps 1e-5 and momentum 0.1, where
the authors' code has 1e-3 and 0.01.
"""

from typing import NamedTuple

from crescendo.models.efficientnet import EfficientNet, Stage, scaled_stages, with_fused_stages
from crescendo.models.layers import scaled_width
from crescendo.models.registry import register

FAMILY = "EfficientNet"
YEAR = 2019

# Stages 2 to 8; 1 is the stem of 32 filters, 9 the head of 1280.
#         block    exp  k  s width depth  se
TABLE_1 = (
    Stage("mbconv", 1, 3, 1,  16,    1, 0.25),
    Stage("mbconv", 6, 3, 2,  24,    2, 0.25),
    Stage("mbconv", 6, 5, 2,  40,    2, 0.25),
    Stage("mbconv", 6, 3, 2,  80,    3, 0.25),
    Stage("mbconv", 6, 5, 1, 112,    3, 0.25),
    Stage("mbconv", 6, 5, 2, 192,    4, 0.25),
    Stage("mbconv", 6, 3, 1, 320,    1, 0.25),
)  # fmt: skip


class Variant(NamedTuple):
    width: float
    depth: float
    resolution: int
    dropout: float
    eps: float
    momentum: float


#          width depth  px drop   eps momentum
B0 = Variant(1.0, 1.0, 224, 0.2, 1e-5, 0.1)
B1 = Variant(1.0, 1.1, 240, 0.2, 1e-5, 0.1)
B2 = Variant(1.1, 1.2, 260, 0.3, 1e-5, 0.1)
B3 = Variant(1.2, 1.4, 300, 0.3, 1e-5, 0.1)
B4 = Variant(1.4, 1.8, 380, 0.4, 1e-5, 0.1)
B5 = Variant(1.6, 2.2, 456, 0.4, 1e-3, 0.01)
B6 = Variant(1.8, 2.6, 528, 0.5, 1e-3, 0.01)
B7 = Variant(2.0, 3.1, 600, 0.5, 1e-3, 0.01)


def scaled(
    variant: Variant, num_classes: int, in_channels: int, width: float, depth: float, fused_stages: int
) -> EfficientNet:
    """B0 at the variant's coefficients times `width` and `depth`."""
    width, depth = variant.width * width, variant.depth * depth
    net = EfficientNet(
        scaled_stages(with_fused_stages(TABLE_1, fused_stages), width, depth),
        stem=scaled_width(32, width),
        last=scaled_width(1280, width),
        num_classes=num_classes,
        in_channels=in_channels,
        dropout=variant.dropout,
        eps=variant.eps,
        momentum=variant.momentum,
    )
    net.resolution = variant.resolution
    return net


@register
def efficientnet_b0(
    num_classes: int = 1000,
    in_channels: int = 3,
    width: float = 1.0,
    depth: float = 1.0,
    fused_stages: int = 0,
) -> EfficientNet:
    """EfficientNet-B0, 5.3 M parameters at 1000 classes."""
    return scaled(B0, num_classes, in_channels, width, depth, fused_stages)


@register
def efficientnet_b1(
    num_classes: int = 1000,
    in_channels: int = 3,
    width: float = 1.0,
    depth: float = 1.0,
    fused_stages: int = 0,
) -> EfficientNet:
    """EfficientNet-B1, 7.8 M parameters at 1000 classes."""
    return scaled(B1, num_classes, in_channels, width, depth, fused_stages)


@register
def efficientnet_b2(
    num_classes: int = 1000,
    in_channels: int = 3,
    width: float = 1.0,
    depth: float = 1.0,
    fused_stages: int = 0,
) -> EfficientNet:
    """EfficientNet-B2, 9.1 M parameters at 1000 classes."""
    return scaled(B2, num_classes, in_channels, width, depth, fused_stages)


@register
def efficientnet_b3(
    num_classes: int = 1000,
    in_channels: int = 3,
    width: float = 1.0,
    depth: float = 1.0,
    fused_stages: int = 0,
) -> EfficientNet:
    """EfficientNet-B3, 12.2 M parameters at 1000 classes."""
    return scaled(B3, num_classes, in_channels, width, depth, fused_stages)


@register
def efficientnet_b4(
    num_classes: int = 1000,
    in_channels: int = 3,
    width: float = 1.0,
    depth: float = 1.0,
    fused_stages: int = 0,
) -> EfficientNet:
    """EfficientNet-B4, 19.3 M parameters at 1000 classes."""
    return scaled(B4, num_classes, in_channels, width, depth, fused_stages)


@register
def efficientnet_b5(
    num_classes: int = 1000,
    in_channels: int = 3,
    width: float = 1.0,
    depth: float = 1.0,
    fused_stages: int = 0,
) -> EfficientNet:
    """EfficientNet-B5, 30.4 M parameters at 1000 classes."""
    return scaled(B5, num_classes, in_channels, width, depth, fused_stages)


@register
def efficientnet_b6(
    num_classes: int = 1000,
    in_channels: int = 3,
    width: float = 1.0,
    depth: float = 1.0,
    fused_stages: int = 0,
) -> EfficientNet:
    """EfficientNet-B6, 43.0 M parameters at 1000 classes."""
    return scaled(B6, num_classes, in_channels, width, depth, fused_stages)


@register
def efficientnet_b7(
    num_classes: int = 1000,
    in_channels: int = 3,
    width: float = 1.0,
    depth: float = 1.0,
    fused_stages: int = 0,
) -> EfficientNet:
    """EfficientNet-B7, 66.3 M parameters at 1000 classes."""
    return scaled(B7, num_classes, in_channels, width, depth, fused_stages)
