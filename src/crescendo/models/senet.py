"""SENets (Hu, Shen, Albanie, Sun & Wu 2018, "Squeeze-and-Excitation Networks", arXiv:1709.01507):
SE-ResNets and SE-ResNeXts, Table 1; SENet-154, the appendix's description of the ILSVRC 2017 net.

ResNets and ResNeXts with an SE block (r = 16, with biases) last in each residual branch.
As the authors' release has it: the pool of the stem rounds up and takes no padding, and the stride
of an SE-ResNet's block is on its first 1x1, of the others' on the 3x3.
SENet-154 has the depths of ResNet-152 and 64 groups; three 3x3 convolutions as its stem; a first
1x1 of half the width; 3x3 projections where the stride is 2; dropout of 0.2 before the head.
Deviations and the arguments width, depth and zero_init: as for ResNets, in resnet.py. Biases are
initialised to 0, and no layer is frozen at the end of training.
"""

from torch import nn

from crescendo.models.layers import Dropout, SqueezeExcite, convolution
from crescendo.models.registry import register
from crescendo.models.resnet import Bottleneck, ResNet, Stage, with_depths

REDUCTION = 16  # the paper's r


def squeeze_excite(width: int) -> SqueezeExcite:
    return SqueezeExcite(width, max(1, width // REDUCTION))


class SEResNetBranch(nn.Sequential):
    """1x1 with the stride, BN, ReLU, 3x3, BN, ReLU, 1x1, BN, SE."""

    def __init__(self, in_width: int, stage: Stage, stride: int) -> None:
        super().__init__(
            *convolution(in_width, stage.width, 1, stride),
            nn.ReLU(inplace=True),
            *convolution(stage.width, stage.width, 3),
            nn.ReLU(inplace=True),
            *convolution(stage.width, stage.out_width, 1),
            squeeze_excite(stage.out_width),
        )


class SEResNeXtBranch(Bottleneck):
    """1x1, BN, ReLU, grouped 3x3 with the stride, BN, ReLU, 1x1, BN, SE."""

    def __init__(self, in_width: int, stage: Stage, stride: int) -> None:
        super().__init__(in_width, stage, stride)
        self.append(squeeze_excite(stage.out_width))


class SENet154Branch(nn.Sequential):
    """1x1 of half the width, BN, ReLU, grouped 3x3 with the stride, BN, ReLU, 1x1, BN, SE."""

    def __init__(self, in_width: int, stage: Stage, stride: int) -> None:
        half = stage.width // 2
        super().__init__(
            *convolution(in_width, half, 1),
            nn.ReLU(inplace=True),
            *convolution(half, stage.width, 3, stride, stage.groups),
            nn.ReLU(inplace=True),
            *convolution(stage.width, stage.out_width, 1),
            squeeze_excite(stage.out_width),
        )


# Table 1, and the appendix for SENet-154.
# fmt: off
SE_RESNET_50 = (
    #     branch         width   out depth stride groups projection
    Stage(SEResNetBranch,   64,  256,  3,  1),
    Stage(SEResNetBranch,  128,  512,  4,  2),
    Stage(SEResNetBranch,  256, 1024,  6,  2),
    Stage(SEResNetBranch,  512, 2048,  3,  2),
)
SE_RESNET_101 = with_depths(SE_RESNET_50, 3, 4, 23, 3)
SE_RESNET_152 = with_depths(SE_RESNET_50, 3, 8, 36, 3)
SE_RESNEXT_50_32X4D = (
    Stage(SEResNeXtBranch, 128,  256,  3,  1,     32),
    Stage(SEResNeXtBranch, 256,  512,  4,  2,     32),
    Stage(SEResNeXtBranch, 512, 1024,  6,  2,     32),
    Stage(SEResNeXtBranch, 1024, 2048, 3,  2,     32),
)
SE_RESNEXT_101_32X4D = with_depths(SE_RESNEXT_50_32X4D, 3, 4, 23, 3)
SENET_154 = (
    Stage(SENet154Branch,  256,  256,  3,  1,     64,    1),
    Stage(SENet154Branch,  512,  512,  8,  2,     64,    3),
    Stage(SENet154Branch, 1024, 1024, 36,  2,     64,    3),
    Stage(SENet154Branch, 2048, 2048,  3,  2,     64,    3),
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
