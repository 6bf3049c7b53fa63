"""ResNeXts (Xie, Girshick, Dollar, Tu & He 2016, "Aggregated Residual Transformations for Deep
Neural Networks", arXiv:1611.05431), Table 1 and its 32x4d template.

ResNets with three-layer blocks whose 3x3 is a grouped convolution, the paper's equivalent form of
32 aggregated paths of width 4, 8, 16 and 32.
Deviations and the arguments width, depth and zero_init: as for ResNets, in resnet.py. The number
of groups (the paper's cardinality) stays, so a scaled grouped width is a multiple of 32.
"""

from crescendo.models.registry import register
from crescendo.models.resnet import ResNet, Stage, bottleneck, with_depths

FAMILY = "ResNeXt"
YEAR = 2016

# Table 1, conv2 to conv5, with C = 32.
# fmt: off
RESNEXT_50_32X4D = (
    #     branch     width   out depth stride groups
    Stage(bottleneck,  128,  256,  3,  1,     32),
    Stage(bottleneck,  256,  512,  4,  2,     32),
    Stage(bottleneck,  512, 1024,  6,  2,     32),
    Stage(bottleneck, 1024, 2048,  3,  2,     32),
)
RESNEXT_101_32X4D = with_depths(RESNEXT_50_32X4D, 3, 4, 23, 3)
# fmt: on


@register
def resnext50_32x4d(
    num_classes: int = 1000, in_channels: int = 3, width: float = 1, depth: float = 1, zero_init: bool = False
) -> ResNet:
    """ResNeXt-50 (32x4d), 25.0 M parameters at 1000 classes."""
    return ResNet(RESNEXT_50_32X4D, num_classes, in_channels, width, depth, zero_init)


@register
def resnext101_32x4d(
    num_classes: int = 1000, in_channels: int = 3, width: float = 1, depth: float = 1, zero_init: bool = False
) -> ResNet:
    """ResNeXt-101 (32x4d), 44.2 M parameters at 1000 classes."""
    return ResNet(RESNEXT_101_32X4D, num_classes, in_channels, width, depth, zero_init)
