"""EfficientNetV2 (Tan & Le 2021, "EfficientNetV2: Smaller Models and Faster Training",
arXiv:2104.00298), S as Table 4; M, L, XL and B0 to B3 as the authors' code (google/automl,
efficientnetv2). Blocks and net are in efficientnet.py.

Widths are rounded to multiples of 8 without EfficientNet's 90% rule, depths up; stem and head are
scaled too. `width` and `depth` multiply a net's own coefficients; `fused_stages` is how many of the
first stages are Fused-MBConv, without squeeze-excitation: 3 as published, 0 for MBConv alone.
Resolutions are those of testing, dropout and drop path the authors' code's.
Deviation: strided convolutions are padded as torchvision does.
"""

from typing import NamedTuple

from crescendo.models.efficientnet import EfficientNet, Stage, scaled_stages, with_fused_stages
from crescendo.models.layers import scaled_width
from crescendo.models.registry import register

FAMILY = "EfficientNetV2"
YEAR = 2021

#   block    exp  k  s width depth  se
BASE = (
    Stage("fused",  1, 3, 1,  16,    1, 0.00),
    Stage("fused",  4, 3, 2,  32,    2, 0.00),
    Stage("fused",  4, 3, 2,  48,    2, 0.00),
    Stage("mbconv", 4, 3, 2,  96,    3, 0.25),
    Stage("mbconv", 6, 3, 1, 112,    5, 0.25),
    Stage("mbconv", 6, 3, 2, 192,    8, 0.25),
)  # fmt: skip

# Table 4: its stages 1 to 6.
S = (
    Stage("fused",  1, 3, 1,  24,    2, 0.00),
    Stage("fused",  4, 3, 2,  48,    4, 0.00),
    Stage("fused",  4, 3, 2,  64,    4, 0.00),
    Stage("mbconv", 4, 3, 2, 128,    6, 0.25),
    Stage("mbconv", 6, 3, 1, 160,    9, 0.25),
    Stage("mbconv", 6, 3, 2, 256,   15, 0.25),
)  # fmt: skip

M = (
    Stage("fused",  1, 3, 1,  24,    3, 0.00),
    Stage("fused",  4, 3, 2,  48,    5, 0.00),
    Stage("fused",  4, 3, 2,  80,    5, 0.00),
    Stage("mbconv", 4, 3, 2, 160,    7, 0.25),
    Stage("mbconv", 6, 3, 1, 176,   14, 0.25),
    Stage("mbconv", 6, 3, 2, 304,   18, 0.25),
    Stage("mbconv", 6, 3, 1, 512,    5, 0.25),
)  # fmt: skip

L = (
    Stage("fused",  1, 3, 1,  32,    4, 0.00),
    Stage("fused",  4, 3, 2,  64,    7, 0.00),
    Stage("fused",  4, 3, 2,  96,    7, 0.00),
    Stage("mbconv", 4, 3, 2, 192,   10, 0.25),
    Stage("mbconv", 6, 3, 1, 224,   19, 0.25),
    Stage("mbconv", 6, 3, 2, 384,   25, 0.25),
    Stage("mbconv", 6, 3, 1, 640,    7, 0.25),
)  # fmt: skip

XL = (
    Stage("fused",  1, 3, 1,  32,    4, 0.00),
    Stage("fused",  4, 3, 2,  64,    8, 0.00),
    Stage("fused",  4, 3, 2,  96,    8, 0.00),
    Stage("mbconv", 4, 3, 2, 192,   16, 0.25),
    Stage("mbconv", 6, 3, 1, 256,   24, 0.25),
    Stage("mbconv", 6, 3, 2, 512,   32, 0.25),
    Stage("mbconv", 6, 3, 1, 640,    8, 0.25),
)  # fmt: skip


class Variant(NamedTuple):
    stages: tuple[Stage, ...]
    stem: int
    width: float
    depth: float
    resolution: int
    dropout: float


#           rows stem width depth px drop
V2_S = Variant(S, 24, 1.0, 1.0, 384, 0.2)
V2_M = Variant(M, 24, 1.0, 1.0, 480, 0.3)
V2_L = Variant(L, 32, 1.0, 1.0, 480, 0.4)
V2_XL = Variant(XL, 32, 1.0, 1.0, 512, 0.4)
V2_B0 = Variant(BASE, 32, 1.0, 1.0, 224, 0.2)
V2_B1 = Variant(BASE, 32, 1.0, 1.1, 240, 0.2)
V2_B2 = Variant(BASE, 32, 1.1, 1.2, 260, 0.3)
V2_B3 = Variant(BASE, 32, 1.2, 1.4, 300, 0.3)


def scaled(
    variant: Variant, num_classes: int, in_channels: int, width: float, depth: float, fused_stages: int
) -> EfficientNet:
    """The variant's rows at its coefficients times `width` and `depth`."""
    width, depth = variant.width * width, variant.depth * depth
    net = EfficientNet(
        scaled_stages(with_fused_stages(variant.stages, fused_stages), width, depth, never_below=0),
        stem=scaled_width(variant.stem, width, never_below=0),
        last=scaled_width(1280, width, never_below=0),
        num_classes=num_classes,
        in_channels=in_channels,
        dropout=variant.dropout,
        eps=1e-3,
    )
    net.resolution = variant.resolution
    return net


@register
def efficientnet_v2_s(
    num_classes: int = 1000,
    in_channels: int = 3,
    width: float = 1.0,
    depth: float = 1.0,
    fused_stages: int = 3,
) -> EfficientNet:
    """EfficientNetV2-S, 21.5 M parameters at 1000 classes."""
    return scaled(V2_S, num_classes, in_channels, width, depth, fused_stages)


@register
def efficientnet_v2_m(
    num_classes: int = 1000,
    in_channels: int = 3,
    width: float = 1.0,
    depth: float = 1.0,
    fused_stages: int = 3,
) -> EfficientNet:
    """EfficientNetV2-M, 54.1 M parameters at 1000 classes."""
    return scaled(V2_M, num_classes, in_channels, width, depth, fused_stages)


@register
def efficientnet_v2_l(
    num_classes: int = 1000,
    in_channels: int = 3,
    width: float = 1.0,
    depth: float = 1.0,
    fused_stages: int = 3,
) -> EfficientNet:
    """EfficientNetV2-L, 118.5 M parameters at 1000 classes."""
    return scaled(V2_L, num_classes, in_channels, width, depth, fused_stages)


@register
def efficientnet_v2_xl(
    num_classes: int = 1000,
    in_channels: int = 3,
    width: float = 1.0,
    depth: float = 1.0,
    fused_stages: int = 3,
) -> EfficientNet:
    """EfficientNetV2-XL, 208.1 M parameters at 1000 classes."""
    return scaled(V2_XL, num_classes, in_channels, width, depth, fused_stages)


@register
def efficientnet_v2_b0(
    num_classes: int = 1000,
    in_channels: int = 3,
    width: float = 1.0,
    depth: float = 1.0,
    fused_stages: int = 3,
) -> EfficientNet:
    """EfficientNetV2-B0, 7.1 M parameters at 1000 classes."""
    return scaled(V2_B0, num_classes, in_channels, width, depth, fused_stages)


@register
def efficientnet_v2_b1(
    num_classes: int = 1000,
    in_channels: int = 3,
    width: float = 1.0,
    depth: float = 1.0,
    fused_stages: int = 3,
) -> EfficientNet:
    """EfficientNetV2-B1, 8.1 M parameters at 1000 classes."""
    return scaled(V2_B1, num_classes, in_channels, width, depth, fused_stages)


@register
def efficientnet_v2_b2(
    num_classes: int = 1000,
    in_channels: int = 3,
    width: float = 1.0,
    depth: float = 1.0,
    fused_stages: int = 3,
) -> EfficientNet:
    """EfficientNetV2-B2, 10.1 M parameters at 1000 classes."""
    return scaled(V2_B2, num_classes, in_channels, width, depth, fused_stages)


@register
def efficientnet_v2_b3(
    num_classes: int = 1000,
    in_channels: int = 3,
    width: float = 1.0,
    depth: float = 1.0,
    fused_stages: int = 3,
) -> EfficientNet:
    """EfficientNetV2-B3, 14.4 M parameters at 1000 classes."""
    return scaled(V2_B3, num_classes, in_channels, width, depth, fused_stages)
