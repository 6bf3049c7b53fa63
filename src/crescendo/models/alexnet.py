"""AlexNet (Krizhevsky, Sutskever & Hinton 2012, "ImageNet Classification with Deep Convolutional
Neural Networks", NIPS 25), section 3 and Figure 2; and the later single-column net (Krizhevsky
2014, "One weird trick for parallelizing convolutional neural networks", arXiv:1404.5997).

    alexnet       C1    C2    C3    C4    C5    F6    F7    output
    filters       96   256   384   384   256  4096  4096   num_classes
    size, px      55    27    13    13    13                             at 224 px

C2, C4 and C5 see half of the maps each: the paper's two GPUs are two groups here.
Deviations of alexnet: C1 is padded by 2, since without it the 55x55 maps of the paper would need
227 px; behind the last pool the maps are resized to 6x6 (the identity at 224 px).
alexnet_owt is torchvision's: its widths, no response normalisation, no groups, dropout in front of
both hidden layers, torch's default initialisation.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor, nn

from crescendo.models.layers import AdaptiveAveragePool, Dropout, LocalResponseNorm, Net
from crescendo.models.registry import register

FAMILY = "AlexNet"
YEAR = 2012


class Layer(NamedTuple):
    """A convolution, ReLU, response normalisation if any, and a 3x3 max pool of stride 2 if any."""

    width: int
    kernel_size: int
    stride: int
    padding: int
    groups: int
    norm: bool
    pool: bool


# fmt: off
#       width  k  s  p groups norm   pool
ALEXNET = (
    Layer( 96, 11, 4, 2, 1, True,  True),
    Layer(256,  5, 1, 2, 2, True,  True),
    Layer(384,  3, 1, 1, 1, False, False),
    Layer(384,  3, 1, 1, 2, False, False),
    Layer(256,  3, 1, 1, 2, False, True),
)
ALEXNET_OWT = (
    Layer( 64, 11, 4, 2, 1, False, True),
    Layer(192,  5, 1, 2, 1, False, True),
    Layer(384,  3, 1, 1, 1, False, False),
    Layer(256,  3, 1, 1, 1, False, False),
    Layer(256,  3, 1, 1, 1, False, True),
)
# fmt: on


class AlexNet(Net):
    """Five convolutional layers, 6x6 maps, and a head of three linear layers."""

    resolution = 224
    min_resolution = 63  # 15, 7, 3 and 1 pixels: below it the last pool has less than its window

    def __init__(self, layers: Sequence[Layer], head: nn.Sequential, in_channels: int) -> None:
        super().__init__()
        self.stages = nn.Sequential()
        in_width = in_channels
        for layer in layers:
            self.stages.append(_stage(in_width, layer))
            in_width = layer.width
        self.pool = AdaptiveAveragePool(6)
        self.head = head

    def readers(self) -> list[nn.Module]:
        """What follows each convolution's ReLU: its maps before they are normalised and pooled."""
        layers = [*(layer for stage in self.stages for layer in stage.children()), self.pool]
        return [after for layer, after in pairwise(layers) if isinstance(layer, nn.ReLU)]

    def forward(self, x: Tensor) -> Tensor:
        """x [N, C, H, W] -> [N, 256, 6, 6] -> [N, num_classes]."""
        return self.head(self.pool(self.stages(x)).flatten(1))


def _stage(in_width: int, layer: Layer) -> nn.Sequential:
    stage = nn.Sequential(
        nn.Conv2d(in_width, layer.width, layer.kernel_size, layer.stride, layer.padding, groups=layer.groups),
        nn.ReLU(inplace=True),
    )
    if layer.norm:
        # The paper's alpha is 1e-4, times a sum over 5 channels; torch's is times their mean.
        stage.append(LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0))
    if layer.pool:
        stage.append(nn.MaxPool2d(3, stride=2))
    return stage


def initialize_alexnet(net: AlexNet) -> None:
    """Section 5: weights from N(0, 0.01^2), biases 1 in C2, C4, C5 and the hidden layers, else 0."""
    layers = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    for layer, bias in zip(layers, (0, 1, 0, 1, 1, 1, 1, 0), strict=True):
        nn.init.normal_(layer.weight, std=0.01)
        assert layer.bias is not None
        nn.init.constant_(layer.bias, bias)


@register
def alexnet(num_classes: int = 1000, in_channels: int = 3) -> AlexNet:
    """AlexNet as published, 60,965,224 parameters at 1000 classes."""
    head = nn.Sequential(
        nn.Linear(256 * 6 * 6, 4096),
        nn.ReLU(inplace=True),
        Dropout(0.5),
        nn.Linear(4096, 4096),
        nn.ReLU(inplace=True),
        Dropout(0.5),
        nn.Linear(4096, num_classes),
    )
    net = AlexNet(ALEXNET, head, in_channels)
    initialize_alexnet(net)
    return net


@register(year=2014)
def alexnet_owt(num_classes: int = 1000, in_channels: int = 3) -> AlexNet:
    """The single-column AlexNet as torchvision has it, 61,100,840 parameters at 1000 classes."""
    head = nn.Sequential(
        Dropout(0.5),
        nn.Linear(256 * 6 * 6, 4096),
        nn.ReLU(inplace=True),
        Dropout(0.5),
        nn.Linear(4096, 4096),
        nn.ReLU(inplace=True),
        nn.Linear(4096, num_classes),
    )
    return AlexNet(ALEXNET_OWT, head, in_channels)
