"""SENets (Hu, Shen, Albanie, Sun & Wu 2018, "Squeeze-and-Excitation Networks", arXiv:1709.01507):
SE-ResNets and SE-ResNeXts, Table 1 for 50 layers; SENet-154 of ILSVRC 2017, the appendix.

ResNets and ResNeXts with an SE block (r = 16, with biases) last in each residual branch.
As the authors' release has it: the pool of the stem rounds up and takes no padding, and the stride
of an SE-ResNet's block is on its first 1x1, of the others' on the 3x3.
SENet-154 has the depths of ResNet-152 and 64 groups; three 3x3 convolutions as its stem; a first
1x1 of half a ResNeXt's width; 3x3 projections where the stride is 2; dropout of 0.2 before the head.
Deviations: as in resnet.py, a block can be dropped (published rate 0) and the linear layer is
initialised as torch does. The arguments width, depth and zero_init are that file's too.
"""

from torch import nn

from crescendo.models.layers import Dropout, SqueezeExcite, convolution
from crescendo.models.registry import register
from crescendo.models.resnet import ResNet, Stage, bottleneck, with_depths

FAMILY = "SENet"
YEAR = 2017

REDUCTION = 16  # the paper's r


def squeeze_excite(width: int) -> SqueezeExcite:
    return SqueezeExcite(width, max(1, width // REDUCTION))


def se_resnet(in_width: int, stage: Stage, stride: int) -> nn.Sequential:
    """1x1 with the stride, BN, ReLU, 3x3, BN, ReLU, 1x1, BN, SE."""
    return nn.Sequential(
        *convolution(in_width, stage.width, 1, stride),
        nn.ReLU(inplace=True),
        *convolution(stage.width, stage.width, 3),
        nn.ReLU(inplace=True),
        *convolution(stage.width, stage.out_width, 1),
        squeeze_excite(stage.out_width),
    )


def se_resnext(in_width: int, stage: Stage, stride: int) -> nn.Sequential:
    """1x1, BN, ReLU, grouped 3x3 with the stride, BN, ReLU, 1x1, BN, SE."""
    return bottleneck(in_width, stage, stride).append(squeeze_excite(stage.out_width))


def senet_154(in_width: int, stage: Stage, stride: int) -> nn.Sequential:
    """1x1, BN, ReLU, grouped 3x3 with the stride to twice the width, BN, ReLU, 1x1, BN, SE."""
    return nn.Sequential(
        *convolution(in_width, stage.width, 1),
        nn.ReLU(inplace=True),
        *convolution(stage.width, 2 * stage.width, 3, stride, stage.groups),
        nn.ReLU(inplace=True),
        *convolution(2 * stage.width, stage.out_width, 1),
        squeeze_excite(stage.out_width),
    )


# Table 1, and the appendix for SENet-154.
# fmt: off
SE_RESNET_50 = (
    #     branch     width   out depth stride groups projection
    Stage(se_resnet,    64,  256,  3,  1),
    Stage(se_resnet,   128,  512,  4,  2),
    Stage(se_resnet,   256, 1024,  6,  2),
    Stage(se_resnet,   512, 2048,  3,  2),
)
SE_RESNET_101 = with_depths(SE_RESNET_50, 3, 4, 23, 3)
SE_RESNET_152 = with_depths(SE_RESNET_50, 3, 8, 36, 3)
SE_RESNEXT_50_32X4D = (
    Stage(se_resnext,  128,  256,  3,  1,     32),
    Stage(se_resnext,  256,  512,  4,  2,     32),
    Stage(se_resnext,  512, 1024,  6,  2,     32),
    Stage(se_resnext, 1024, 2048,  3,  2,     32),
)
SE_RESNEXT_101_32X4D = with_depths(SE_RESNEXT_50_32X4D, 3, 4, 23, 3)
SENET_154 = (
    Stage(senet_154,   128,  256,  3,  1,     64,    1),
    Stage(senet_154,   256,  512,  8,  2,     64,    3),
    Stage(senet_154,   512, 1024, 36,  2,     64,    3),
    Stage(senet_154,  1024, 2048,  3,  2,     64,    3),
)
# fmt: on


class SENet(ResNet):
    """A ResNet whose stem ends in the release's pool: no padding, sizes rounded up."""

    def build_stem(self, in_channels: int, width: int) -> nn.Sequential:
        """7x7 with stride 2, BN, ReLU, 3x3 pool with stride 2."""
        return nn.Sequential(
            *convolution(in_channels, width, 7, stride=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, ceil_mode=True),
        )


class SENet154(ResNet):
    """The SENet of ILSVRC 2017: its own stem, and dropout before the linear layer."""

    stem_width = 128

    def build_stem(self, in_channels: int, width: int) -> nn.Sequential:
        """3x3 with stride 2 to half the width, 3x3, 3x3 to the width, each with BN and ReLU, pool."""
        half = width // 2
        return nn.Sequential(
            *convolution(in_channels, half, 3, stride=2),
            nn.ReLU(inplace=True),
            *convolution(half, half, 3),
            nn.ReLU(inplace=True),
            *convolution(half, width, 3),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, ceil_mode=True),
        )

    def build_head(self, width: int, num_classes: int) -> nn.Module:
        return nn.Sequential(Dropout(0.2), nn.Linear(width, num_classes))


@register
def se_resnet50(
    num_classes: int = 1000, in_channels: int = 3, width: float = 1, depth: float = 1, zero_init: bool = False
) -> SENet:
    """SE-ResNet-50, 28.1 M parameters at 1000 classes."""
    return SENet(SE_RESNET_50, num_classes, in_channels, width, depth, zero_init)


@register
def se_resnet101(
    num_classes: int = 1000, in_channels: int = 3, width: float = 1, depth: float = 1, zero_init: bool = False
) -> SENet:
    """SE-ResNet-101, 49.3 M parameters at 1000 classes."""
    return SENet(SE_RESNET_101, num_classes, in_channels, width, depth, zero_init)


@register
def se_resnet152(
    num_classes: int = 1000, in_channels: int = 3, width: float = 1, depth: float = 1, zero_init: bool = False
) -> SENet:
    """SE-ResNet-152, 66.8 M parameters at 1000 classes."""
    return SENet(SE_RESNET_152, num_classes, in_channels, width, depth, zero_init)


@register
def se_resnext50_32x4d(
    num_classes: int = 1000, in_channels: int = 3, width: float = 1, depth: float = 1, zero_init: bool = False
) -> SENet:
    """SE-ResNeXt-50 (32x4d), 27.6 M parameters at 1000 classes."""
    return SENet(SE_RESNEXT_50_32X4D, num_classes, in_channels, width, depth, zero_init)


@register
def se_resnext101_32x4d(
    num_classes: int = 1000, in_channels: int = 3, width: float = 1, depth: float = 1, zero_init: bool = False
) -> SENet:
    """SE-ResNeXt-101 (32x4d), 49.0 M parameters at 1000 classes."""
    return SENet(SE_RESNEXT_101_32X4D, num_classes, in_channels, width, depth, zero_init)


@register
def senet154(
    num_classes: int = 1000, in_channels: int = 3, width: float = 1, depth: float = 1, zero_init: bool = False
) -> SENet154:
    """SENet-154, 115.1 M parameters at 1000 classes."""
    return SENet154(SENET_154, num_classes, in_channels, width, depth, zero_init)
