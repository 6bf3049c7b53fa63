"""GoogLeNet with batch norm, as torchvision has it (after Szegedy et al. 2014, arXiv:1409.4842), and
with squeeze-and-excitation (Hu, Shen, Albanie, Sun & Wu 2018, "Squeeze-and-Excitation Networks",
arXiv:1709.01507).

googlenet_bn differs from googlenet.py in what torchvision changed: batch norm (eps 1e-3) for biases and
response normalisation, 3x3 kernels in the branch that Table 1 calls 5x5, a 2x2 pool in front of 5a,
4x4 adaptive pools in the auxiliary heads, dropout 0.2.
se_googlenet has a SqueezeExcite of reduction 16 behind each module's concatenation.
Deviations: the SE paper's own Inception net is SE-BN-Inception, whose modules are others;
convolutions are initialised as He et al. 2015 and linear layers as torch does, where torchvision
draws both from a normal distribution of deviation 0.01.
"""

from collections.abc import Callable

from torch import nn

from crescendo.models.googlenet import GoogLeNet, Inception, Widths, auxiliary_head, max_pool
from crescendo.models.layers import AdaptiveAveragePool, SqueezeExcite, initialize_he
from crescendo.models.registry import register

FAMILY = "GoogLeNet"
YEAR = 2014


def convolution(in_width: int, width: int, kernel_size: int, stride: int = 1) -> nn.Sequential:
    """Convolution, BN, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_width, width, kernel_size, stride, padding=kernel_size // 2, bias=False),
        nn.BatchNorm2d(width, eps=1e-3),
        nn.ReLU(inplace=True),
    )


def inception(in_width: int, widths: Widths) -> Inception:
    """Table 1's module with batch norm, and 3x3 for 5x5."""
    return Inception(in_width, widths, convolution, kernel_size_5x5=3)


def se_inception(in_width: int, widths: Widths) -> nn.Sequential:
    """The module, then a gate on each channel of its concatenation."""
    gate = SqueezeExcite(widths.output, squeezed=widths.output // 16)
    return nn.Sequential(inception(in_width, widths), gate)


def build(module: Callable[[int, Widths], nn.Module], num_classes: int, in_channels: int) -> GoogLeNet:
    """Of 32 px the last maps have one pixel."""

    def auxiliary(in_width: int) -> nn.Sequential:
        return auxiliary_head(AdaptiveAveragePool(4), convolution(in_width, 128, 1), num_classes)

    stem = nn.Sequential(
        convolution(in_channels, 64, 7, stride=2),
        max_pool(),
        convolution(64, 64, 1),
        convolution(64, 192, 3),
        max_pool(),
    )
    pool4 = nn.MaxPool2d(2, ceil_mode=True)
    net = GoogLeNet(stem, module, pool4, auxiliary, 0.2, num_classes, min_resolution=32)
    initialize_he(net)
    return net


@register
def googlenet_bn(num_classes: int = 1000, in_channels: int = 3) -> GoogLeNet:
    """GoogLeNet with batch norm, 13,004,888 parameters at 1000 classes, 6,624,904 without auxiliary heads."""
    return build(inception, num_classes, in_channels)


@register(family="SENet", year=2017)
def se_googlenet(num_classes: int = 1000, in_channels: int = 3) -> GoogLeNet:
    """SE-GoogLeNet, 13,484,991 parameters at 1000 classes."""
    return build(se_inception, num_classes, in_channels)
