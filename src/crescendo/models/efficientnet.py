"""The blocks and the net that EfficientNet, EfficientNet-Lite and EfficientNetV2 share. Their tables
are in efficientnet_v1.py, efficientnet_lite.py and efficientnet_v2.py.

MBConv is MobileNetV2's bottleneck with squeeze-excitation (Tan & Le 2019, arXiv:1905.11946);
Fused-MBConv replaces its expansion and depthwise convolution by one full convolution (Tan & Le
2021, arXiv:2104.00298, Figure 2). An expansion by 1 has no convolution of its own in either.
Deviation: strided convolutions are padded alike on all sides, as torchvision does; TensorFlow's
weights want `same_padding` and eps 1e-3.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from crescendo.errors import UserError, did_you_mean
from crescendo.models.layers import (
    ConvNormActivation,
    Dropout,
    DropPath,
    GlobalAveragePool,
    Net,
    SqueezeExcite,
    scaled_depth,
    scaled_width,
)


class Stage(NamedTuple):
    block: str  # a name in BLOCKS
    expansion: int
    kernel_size: int
    stride: int  # of the first block; the others have 1
    width: int
    depth: int
    se_ratio: float  # squeezed channels over the block's input channels; 0: no squeeze-excitation


class SiLU(nn.Module):
    """x * sigmoid(x), in place unless autograd needs x: then in place would copy x first."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x, inplace=not x.requires_grad)


class SamePaddingConv2d(nn.Conv2d):
    """TensorFlow's "SAME": as little padding as the output needs, the odd pixel right and below."""

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == (1, 1):
            return super().forward(x)
        top, bottom = self._padding(x.shape[2], 0)
        left, right = self._padding(x.shape[3], 1)
        x = F.pad(x, (left, right, top, bottom))
        return F.conv2d(x, self.weight, self.bias, self.stride, groups=self.groups)

    def _padding(self, size: int, axis: int) -> tuple[int, int]:
        stride, kernel_size = self.stride[axis], self.kernel_size[axis]
        total = max((math.ceil(size / stride) - 1) * stride + kernel_size - size, 0)
        return total // 2, total - total // 2


# ConvNormActivation with the net's own norm, activation and padding.
Layer = Callable[..., nn.Module]


class MBConv(nn.Module):
    """1x1 expand, kxk depthwise, squeeze-excite, 1x1 project without activation, drop path, plus x.

    Without drop path and x where stride or width change.
    """

    def __init__(self, in_width: int, row: Stage, stride: int, layer: Layer, drop_path: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*self.branch(in_width, in_width * row.expansion, row, stride, layer))
        self.drop_path = drop_path if stride == 1 and in_width == row.width else None

    def branch(self, in_width: int, wide: int, row: Stage, stride: int, layer: Layer) -> Iterable[nn.Module]:
        if row.expansion != 1:
            yield layer(in_width, wide)
        yield layer(wide, wide, row.kernel_size, stride, groups=wide)
        if row.se_ratio:
            yield SqueezeExcite(wide, max(1, int(in_width * row.se_ratio)), SiLU)
        yield layer(wide, row.width, activation=None)

    def forward(self, x: Tensor) -> Tensor:
        if self.drop_path is None:
            return self.layers(x)
        y = self.drop_path(self.layers(x))
        return y + x if y.requires_grad else y.add_(x)  # an activation may have saved y


class FusedMBConv(MBConv):
    """kxk expand, squeeze-excite, 1x1 project without activation, drop path, plus x.

    Expanded by 1 it is one kxk convolution with activation, behind the squeeze-excitation if any.
    """

    def branch(self, in_width: int, wide: int, row: Stage, stride: int, layer: Layer) -> Iterable[nn.Module]:
        if row.expansion != 1:
            yield layer(in_width, wide, row.kernel_size, stride)
        if row.se_ratio:
            yield SqueezeExcite(wide, max(1, int(in_width * row.se_ratio)), SiLU)
        if row.expansion != 1:
            yield layer(wide, row.width, activation=None)
        else:
            yield layer(in_width, row.width, row.kernel_size, stride)


BLOCKS: dict[str, type[MBConv]] = {"mbconv": MBConv, "fused": FusedMBConv}


class EfficientNet(Net):
    """Stem (3x3, stride 2 unless given), stages, last 1x1 convolution, pool, dropout, linear head.

    stages: rows of Stage, or mappings with the same fields, as a yaml gives them.
    Block i of N is dropped at i/N of the drop path rate, i = 0..N-1: the first one never is.
    """

    def __init__(
        self,
        stages: Sequence[Stage | Mapping[str, Any]],
        stem: int = 32,
        last: int = 1280,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.2,
        drop_path: float = 0.2,
        activation: Callable[[], nn.Module] = SiLU,
        eps: float = 1e-5,
        momentum: float = 0.1,
        same_padding: bool = False,
        stem_stride: int = 2,
    ) -> None:
        super().__init__()
        rows = [_as_stage(row) for row in stages]
        self.min_resolution = stem_stride * math.prod(row.stride for row in rows)
        layer = partial(
            ConvNormActivation,
            activation=activation,
            norm=partial(nn.BatchNorm2d, eps=eps, momentum=momentum),
            convolution=SamePaddingConv2d if same_padding else nn.Conv2d,
        )
        self.stem = layer(in_channels, stem, 3, stride=stem_stride)
        self.stages = nn.Sequential()
        in_width, block, blocks = stem, 0, sum(row.depth for row in rows)
        for row in rows:
            stage = nn.Sequential()
            for stride in [row.stride] + [1] * (row.depth - 1):
                drop = DropPath(drop_path, block / blocks) if block else nn.Identity()
                stage.append(BLOCKS[row.block](in_width, row, stride, layer, drop))
                in_width, block = row.width, block + 1
            self.stages.append(stage)
        self.last_conv = layer(in_width, last)
        self.pool = GlobalAveragePool()
        self.dropout = Dropout(dropout)
        self.head = nn.Linear(last, num_classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As the authors' code: convolutions normal with variance 2/fan-out, where a depthwise one's
        fan-out is its kernel's size; the linear layer uniform within 1/sqrt(num_classes).
        """
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                fan_out = layer.weight[:, 0].numel() // layer.groups
                nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_out))
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        bound = 1 / math.sqrt(self.head.out_features)
        nn.init.uniform_(self.head.weight, -bound, bound)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x [N, C, H, W] -> [N, stem, H/2, W/2] -> [N, last, H/32, W/32] -> [N, num_classes]."""
        x = self.stem(x)
        for stage in self.stages:  # as one call they would hold the stem's output to the end
            x = stage(x)
        return self.head(self.dropout(self.pool(self.last_conv(x)).flatten(1)))


def efficientnet_of_rows(
    stages: Sequence[Stage | Mapping[str, Any]],
    stem: int,
    last: int,
    num_classes: int,
    in_channels: int,
    stem_stride: int = 2,
    width: float = 1.0,
    depth: float = 1.0,
) -> EfficientNet:
    """The net of a table of one's own, as a yaml gives it, that can be scaled as B0 can."""
    net = EfficientNet(
        scaled_stages([_as_stage(row) for row in stages], width, depth),
        stem=scaled_width(stem, width),
        last=scaled_width(last, width),
        num_classes=num_classes,
        in_channels=in_channels,
        stem_stride=stem_stride,
    )
    net.name = "efficientnet_of_rows"
    return net


def scaled_stages(
    stages: Sequence[Stage], width: float, depth: float, never_below: float = 0.9
) -> list[Stage]:
    """The rows with their widths and depths multiplied (`never_below`: see scaled_width)."""
    return [
        row._replace(
            width=scaled_width(row.width, width, never_below=never_below),
            depth=scaled_depth(row.depth, depth),
        )
        for row in stages
    ]


def with_fused_stages(stages: Sequence[Stage], count: int) -> list[Stage]:
    """The rows with Fused-MBConv, without squeeze-excitation, in the first `count`; then MBConv."""
    if not 0 <= count <= len(stages):
        raise UserError(f"fused_stages={count}: this net has {len(stages)} stages")
    fused = [row._replace(block="fused", se_ratio=0.0) for row in stages[:count]]
    return fused + [row._replace(block="mbconv", se_ratio=0.25) for row in stages[count:]]


def _as_stage(row: Stage | Mapping[str, Any]) -> Stage:
    if not isinstance(row, Stage):
        if set(row) != set(Stage._fields):
            raise UserError(f"a stage has {', '.join(Stage._fields)}, not {', '.join(map(str, row))}")
        row = Stage(**row)
    if row.block not in BLOCKS:
        raise UserError(
            f"block={row.block}: blocks are {', '.join(BLOCKS)}.{did_you_mean(str(row.block), BLOCKS)}"
        )
    if (
        min(row.expansion, row.stride, row.width, row.depth) < 1
        or row.kernel_size % 2 == 0
        or row.se_ratio < 0
    ):
        raise UserError(f"{row}: all but se_ratio must be 1 or more, kernel_size odd, se_ratio 0 or more")
    return row
