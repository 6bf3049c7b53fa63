"""ResNets and plain nets for CIFAR-10 (He, Zhang, Ren & Sun 2015, "Deep Residual Learning for
Image Recognition", arXiv:1512.03385), section 4.2 and Table 6.

    output map   32x32   16x16   8x8        6n+2 layers: a 3x3 stem, three stages of n blocks
    layers        1+2n      2n    2n        of two 3x3 convolutions each, and a linear head
    filters         16      32    64

The plain nets are the paper's control: the same layers without the shortcuts.
Deviations: a residual block can be dropped (stochastic depth, Huang et al. 2016; the published
rate is 0, which is this paper's net); `width` is the first stage's number of filters and `depth`
multiplies n, rounded up as EfficientNet does (arXiv:1905.11946); the linear layer is initialised as
torch does, since the paper does not say how.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from crescendo.models.layers import DropPath, GlobalAveragePool, Net, convolution, initialize_he, scaled_depth
from crescendo.models.registry import register

FAMILY = "ResNet"
YEAR = 2015


class PlainBlock(nn.Module):
    """3x3, BN, ReLU, 3x3, BN, ReLU."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *convolution(in_width, width, 3, stride),
            nn.ReLU(inplace=True),
            *convolution(width, width, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.layers(x), inplace=True)


class ResidualBlock(PlainBlock):
    """3x3, BN, ReLU, 3x3, BN, drop path, plus the shortcut, ReLU.

    The shortcut has no parameters (option A): every stride-th pixel, and zeros for new channels.
    """

    def __init__(self, in_width: int, width: int, stride: int, share: float) -> None:
        super().__init__(in_width, width, stride)
        self.stride = stride
        self.new_channels = width - in_width
        self.drop_path = DropPath(0.0, share)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.drop_path(self.layers(x)) + self.shortcut(x), inplace=True)

    def shortcut(self, x: Tensor) -> Tensor:
        if self.stride == 1 and self.new_channels == 0:
            return x
        pixels = F.avg_pool2d(x, kernel_size=1, stride=self.stride)  # slicing's gradient is not channels_last
        return F.pad(pixels, (0, 0, 0, 0, 0, self.new_channels))


class ResNetCifar(Net):
    """Stem, three stages of `depth` blocks (the paper's n), head; width, 2 width, 4 width filters.

    Block l of L is dropped at l/L of the drop path rate (Huang et al. 2016, equation 4).
    """

    resolution = 32
    min_resolution = 4

    def __init__(
        self, depth: int, width: int, num_classes: int, in_channels: int, residual: bool = True
    ) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width={width}: a ResNet's first stage needs 1 filter or more")
        self.stem = nn.Sequential(*convolution(in_channels, width, 3), nn.ReLU(inplace=True))
        self.stages = nn.Sequential()
        in_width, block = width, 0
        for stage_width, stage_stride in ((width, 1), (2 * width, 2), (4 * width, 2)):
            stage = nn.Sequential()
            for stride in [stage_stride] + [1] * (depth - 1):
                block += 1
                stage.append(
                    ResidualBlock(in_width, stage_width, stride, share=block / (3 * depth))
                    if residual
                    else PlainBlock(in_width, stage_width, stride)
                )
                in_width = stage_width
            self.stages.append(stage)
        self.pool = GlobalAveragePool()
        self.head = nn.Linear(in_width, num_classes)
        initialize_he(self)

    def forward(self, x: Tensor) -> Tensor:
        """x [N, C, H, W] -> [N, width, H, W] -> [N, 4 width, H/4, W/4] -> [N, num_classes]."""
        x = self.stem(x)
        for stage in self.stages:  # as one call they would hold the stem's output to the end
            x = stage(x)
        return self.head(self.pool(x).flatten(1))


@register
def resnet20(num_classes: int = 10, in_channels: int = 3, width: int = 16, depth: float = 1.0) -> ResNetCifar:
    """ResNet-20, n = 3: 0.27 M parameters at 10 classes."""
    return ResNetCifar(scaled_depth(3, depth), width, num_classes, in_channels)


@register
def resnet32(num_classes: int = 10, in_channels: int = 3, width: int = 16, depth: float = 1.0) -> ResNetCifar:
    """ResNet-32, n = 5: 0.46 M parameters at 10 classes."""
    return ResNetCifar(scaled_depth(5, depth), width, num_classes, in_channels)


@register
def resnet44(num_classes: int = 10, in_channels: int = 3, width: int = 16, depth: float = 1.0) -> ResNetCifar:
    """ResNet-44, n = 7: 0.66 M parameters at 10 classes."""
    return ResNetCifar(scaled_depth(7, depth), width, num_classes, in_channels)


@register
def resnet56(num_classes: int = 10, in_channels: int = 3, width: int = 16, depth: float = 1.0) -> ResNetCifar:
    """ResNet-56, n = 9: 0.85 M parameters at 10 classes."""
    return ResNetCifar(scaled_depth(9, depth), width, num_classes, in_channels)


@register
def resnet110(
    num_classes: int = 10, in_channels: int = 3, width: int = 16, depth: float = 1.0
) -> ResNetCifar:
    """ResNet-110, n = 18: 1.7 M parameters at 10 classes."""
    return ResNetCifar(scaled_depth(18, depth), width, num_classes, in_channels)


@register
def resnet1202(
    num_classes: int = 10, in_channels: int = 3, width: int = 16, depth: float = 1.0
) -> ResNetCifar:
    """ResNet-1202, n = 200: 19.4 M parameters at 10 classes."""
    return ResNetCifar(scaled_depth(200, depth), width, num_classes, in_channels)


@register
def plain20(num_classes: int = 10, in_channels: int = 3, width: int = 16, depth: float = 1.0) -> ResNetCifar:
    """ResNet-20 without its shortcuts: 0.27 M parameters at 10 classes."""
    return ResNetCifar(scaled_depth(3, depth), width, num_classes, in_channels, residual=False)


@register
def plain56(num_classes: int = 10, in_channels: int = 3, width: int = 16, depth: float = 1.0) -> ResNetCifar:
    """ResNet-56 without its shortcuts: 0.85 M parameters at 10 classes."""
    return ResNetCifar(scaled_depth(9, depth), width, num_classes, in_channels, residual=False)
