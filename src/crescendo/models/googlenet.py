"""GoogLeNet (Szegedy, Liu, Jia, Sermanet, Reed, Anguelov, Erhan, Vanhoucke & Rabinovich 2014,
"Going Deeper with Convolutions", arXiv:1409.4842), Table 1 and Figure 3; auxiliary heads: section 5.

    stem         7x7/2 conv, 3x3/2 pool, LRN, 1x1 conv, 3x3 conv, LRN, 3x3/2 pool
    modules      3a 3b, 3x3/2 pool, 4a 4b 4c 4d 4e, 3x3/2 pool, 5a 5b
    auxiliary    behind 4a and 4d: 5x5/3 average pool, 1x1 conv, linear, dropout 0.7, linear
    head         global average pool, dropout 0.4, linear

In train mode the net returns WithAuxiliary, whose auxiliary losses count 0.3 each; in eval mode
logits. The paper gives no constants for response normalisation and no initialisation: both are
those of the Caffe model bvlc_googlenet.
Deviation: an auxiliary head's maps are resized to 4x4 behind its pool (the identity at 224 px).
The nets with batch norm are in googlenet_bn.py.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from crescendo.models.layers import (
    AdaptiveAveragePool,
    Dropout,
    GlobalAveragePool,
    LocalResponseNorm,
    Net,
    WithAuxiliary,
)
from crescendo.models.registry import register

FAMILY = "GoogLeNet"
YEAR = 2014


class Widths(NamedTuple):
    """Of the convolutions of one inception module, a row of Table 1."""

    conv_1x1: int
    reduce_3x3: int
    conv_3x3: int
    reduce_5x5: int
    conv_5x5: int
    pool_projection: int

    @property
    def output(self) -> int:
        return self.conv_1x1 + self.conv_3x3 + self.conv_5x5 + self.pool_projection


# fmt: off
# Table 1      1x1  r3x3  3x3 r5x5 5x5 pool
TABLE_1 = {
    "3a": Widths( 64,  96, 128, 16,  32,  32),
    "3b": Widths(128, 128, 192, 32,  96,  64),
    "4a": Widths(192,  96, 208, 16,  48,  64),
    "4b": Widths(160, 112, 224, 24,  64,  64),
    "4c": Widths(128, 128, 256, 24,  64,  64),
    "4d": Widths(112, 144, 288, 32,  64,  64),
    "4e": Widths(256, 160, 320, 32, 128, 128),
    "5a": Widths(256, 160, 320, 32, 128, 128),
    "5b": Widths(384, 192, 384, 48, 128, 128),
}
# fmt: on

# What ends at the first auxiliary head, at the second, and at the head.
STAGES = (("3a", "3b", "pool3", "4a"), ("4b", "4c", "4d"), ("4e", "pool4", "5a", "5b"))

AUXILIARY_WEIGHT = 0.3

# (in_width, width, kernel_size, stride) -> a convolution that keeps the size at stride 1, with ReLU
Convolution = Callable[[int, int, int, int], nn.Module]


def convolution(in_width: int, width: int, kernel_size: int, stride: int = 1) -> nn.Sequential:
    """Convolution with bias, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_width, width, kernel_size, stride, padding=kernel_size // 2),
        nn.ReLU(inplace=True),
    )


def max_pool() -> nn.MaxPool2d:
    """3x3, stride 2: 112 -> 56 -> 28 -> 14 -> 7, so sizes are rounded up."""
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)


class Inception(nn.Module):
    """1x1; 1x1, 3x3; 1x1, 5x5; 3x3 max pool, 1x1; all four side by side."""

    def __init__(
        self, in_width: int, widths: Widths, convolution: Convolution = convolution, kernel_size_5x5: int = 5
    ) -> None:
        super().__init__()
        self.branch_1x1 = convolution(in_width, widths.conv_1x1, 1, 1)
        self.branch_3x3 = nn.Sequential(
            convolution(in_width, widths.reduce_3x3, 1, 1),
            convolution(widths.reduce_3x3, widths.conv_3x3, 3, 1),
        )
        self.branch_5x5 = nn.Sequential(
            convolution(in_width, widths.reduce_5x5, 1, 1),
            convolution(widths.reduce_5x5, widths.conv_5x5, kernel_size_5x5, 1),
        )
        self.branch_pool = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1),
            convolution(in_width, widths.pool_projection, 1, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        branches = (self.branch_1x1(x), self.branch_3x3(x), self.branch_5x5(x), self.branch_pool(x))
        return torch.cat(branches, dim=1)


def auxiliary_head(pool: nn.Module, reduce: nn.Module, num_classes: int) -> nn.Sequential:
    """Pool to 4x4, 1x1 convolution to 128, linear, ReLU, dropout, linear; dropout stays at 0.7."""
    return nn.Sequential(
        pool,
        reduce,
        nn.Flatten(),
        nn.Linear(128 * 4 * 4, 1024),
        nn.ReLU(inplace=True),
        nn.Dropout(0.7),
        nn.Linear(1024, num_classes),
    )


class GoogLeNet(Net):
    """A stem of 192 filters, nine modules with two auxiliary heads behind 4a and 4d, and a head.

    Args:
        module: (in_width, widths) -> an inception module.
        pool4: between 4e and 5a.
        auxiliary: in_width -> an auxiliary head.
    """

    resolution = 224

    def __init__(
        self,
        stem: nn.Module,
        module: Callable[[int, Widths], nn.Module],
        pool4: nn.Module,
        auxiliary: Callable[[int], nn.Module],
        dropout: float,
        num_classes: int,
        min_resolution: int,
    ) -> None:
        super().__init__()
        self.min_resolution = min_resolution
        self.stem = stem
        self.stages = nn.Sequential()
        pools, width = {"pool3": max_pool(), "pool4": pool4}, 192
        for names in STAGES:
            stage = nn.Sequential()
            for name in names:
                if name in pools:
                    stage.add_module(name, pools[name])
                else:
                    stage.add_module(name, module(width, TABLE_1[name]))
                    width = TABLE_1[name].output
            self.stages.append(stage)
        self.auxiliary = nn.ModuleList(auxiliary(TABLE_1[name].output) for name in ("4a", "4d"))
        self.pool = GlobalAveragePool()
        self.head = nn.Sequential(Dropout(dropout), nn.Linear(width, num_classes))

    def forward(self, x: Tensor) -> Tensor | WithAuxiliary:
        """x [N, C, H, W] -> [N, 512, H/16, W/16] -> [N, 528, ...] -> [N, 1024, H/32, W/32] -> logits."""
        x, auxiliary = self.stem(x), []
        for index, stage in enumerate(self.stages):
            for module in stage.children():  # as one call a stage would hold its input to its end
                x = module(x)
            if self.training and index < len(self.auxiliary):  # here, so that backward frees 5b first
                auxiliary.append(self.auxiliary[index](x))
        logits = self.head(self.pool(x).flatten(1))
        return WithAuxiliary(logits, tuple(auxiliary), AUXILIARY_WEIGHT) if self.training else logits


def initialize_googlenet(net: GoogLeNet) -> None:
    """Weights uniform with variance 1/fan-in, biases 0.2, those of the three classifiers 0."""
    classifiers = {[*head.children()][-1] for head in (net.head, *net.auxiliary)}
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="linear")
            assert layer.bias is not None
            nn.init.constant_(layer.bias, 0.0 if layer in classifiers else 0.2)


@register
def googlenet(num_classes: int = 1000, in_channels: int = 3) -> GoogLeNet:
    """GoogLeNet as published, 13,378,280 parameters at 1000 classes, 6,998,552 without auxiliary heads."""

    def norm() -> LocalResponseNorm:
        return LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)

    def auxiliary(in_width: int) -> nn.Sequential:
        pool = nn.Sequential(nn.AvgPool2d(5, stride=3), AdaptiveAveragePool(4))
        return auxiliary_head(pool, convolution(in_width, 128, 1), num_classes)

    stem = nn.Sequential(
        convolution(in_channels, 64, 7, stride=2),
        max_pool(),
        norm(),
        convolution(64, 64, 1),
        convolution(64, 192, 3),
        norm(),
        max_pool(),
    )
    # From 79 px the maps behind 4a have the 5x5 pixels that an auxiliary head's pool needs.
    net = GoogLeNet(stem, Inception, max_pool(), auxiliary, 0.4, num_classes, min_resolution=79)
    initialize_googlenet(net)
    return net
