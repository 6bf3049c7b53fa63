"""EfficientNet B0 to B7, Lite 0 to 4 and V2 at every size: rounding, norms, resolutions."""

from functools import cache

import pytest
import torch
from torch import nn

from crescendo.analysis.costs import count_parameters
from crescendo.models import create_model, list_models
from crescendo.models.efficientnet import EfficientNet, SamePaddingConv2d

# fmt: off
# name   resolution  stem, widths of the stages, last                 depths
TABLES = {
    "b0": (224,  32, [16, 24, 40, 80, 112, 192, 320], 1280,      [1, 2, 2, 3, 3, 4, 1]),
    "b1": (240,  32, [16, 24, 40, 80, 112, 192, 320], 1280,      [2, 3, 3, 4, 4, 5, 2]),
    "b2": (260,  32, [16, 24, 48, 88, 120, 208, 352], 1408,      [2, 3, 3, 4, 4, 5, 2]),
    "b3": (300,  40, [24, 32, 48, 96, 136, 232, 384], 1536,      [2, 3, 3, 5, 5, 6, 2]),
    "b4": (380,  48, [24, 32, 56, 112, 160, 272, 448], 1792,     [2, 4, 4, 6, 6, 8, 2]),
    "b5": (456,  48, [24, 40, 64, 128, 176, 304, 512], 2048,     [3, 5, 5, 7, 7, 9, 3]),
    "b6": (528,  56, [32, 40, 72, 144, 200, 344, 576], 2304,     [3, 6, 6, 8, 8, 11, 3]),
    "b7": (600,  64, [32, 48, 80, 160, 224, 384, 640], 2560,     [4, 7, 7, 10, 10, 13, 4]),
    "lite0": (224, 32, [16, 24, 40, 80, 112, 192, 320], 1280,    [1, 2, 2, 3, 3, 4, 1]),
    "lite1": (240, 32, [16, 24, 40, 80, 112, 192, 320], 1280,    [1, 3, 3, 4, 4, 5, 1]),
    "lite2": (260, 32, [16, 24, 48, 88, 120, 208, 352], 1280,    [1, 3, 3, 4, 4, 5, 1]),
    "lite3": (280, 32, [24, 32, 48, 96, 136, 232, 384], 1280,    [1, 3, 3, 5, 5, 6, 1]),
    "lite4": (300, 32, [24, 32, 56, 112, 160, 272, 448], 1280,   [1, 4, 4, 6, 6, 8, 1]),
    "v2_b0": (224, 32, [16, 32, 48, 96, 112, 192], 1280,         [1, 2, 2, 3, 5, 8]),
    "v2_b1": (240, 32, [16, 32, 48, 96, 112, 192], 1280,         [2, 3, 3, 4, 6, 9]),
    "v2_b2": (260, 32, [16, 32, 56, 104, 120, 208], 1408,        [2, 3, 3, 4, 6, 10]),
    "v2_b3": (300, 40, [16, 40, 56, 112, 136, 232], 1536,        [2, 3, 3, 5, 7, 12]),
    "v2_s": (384,  24, [24, 48, 64, 128, 160, 256], 1280,        [2, 4, 4, 6, 9, 15]),
    "v2_m": (480,  24, [24, 48, 80, 160, 176, 304, 512], 1280,   [3, 5, 5, 7, 14, 18, 5]),
    "v2_l": (480,  32, [32, 64, 96, 192, 224, 384, 640], 1280,   [4, 7, 7, 10, 19, 25, 7]),
    "v2_xl": (512, 32, [32, 64, 96, 192, 256, 512, 640], 1280,   [4, 8, 8, 16, 24, 32, 8]),
}
# fmt: on

BIG = ("b5", "b6", "b7", "v2_m", "v2_l", "v2_xl")
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name in BIG else name for name in TABLES]


@cache
def on_meta(name: str, **arguments: object) -> EfficientNet:
    with torch.device("meta"):
        return create_model(f"efficientnet_{name}", **arguments)


def widths(net: EfficientNet) -> list[int]:
    return [stage[-1].layers[-1][0].out_channels for stage in net.stages]


def depths(net: EfficientNet) -> list[int]:
    return [len(stage) for stage in net.stages]


def blocks(net: EfficientNet) -> list[str]:
    return [type(stage[0]).__name__ for stage in net.stages]


def test_every_net_has_its_row_here():
    assert sorted(f"efficientnet_{name}" for name in TABLES) == sorted(list_models("efficientnet*"))


@pytest.mark.parametrize("name", NAMES)
def test_resolution_widths_and_depths(name):
    net = on_meta(name)
    stem, last = net.stem[0].out_channels, net.head.in_features
    assert (net.resolution, stem, widths(net), last, depths(net)) == TABLES[name]


@pytest.mark.parametrize(
    ("name", "stride_and_size"),
    [
        ("b0", [(16, 112), (24, 56), (40, 28), (80, 14), (112, 14), (192, 7), (320, 7)]),
        ("v2_b0", [(16, 112), (32, 56), (48, 28), (96, 14), (112, 14), (192, 7)]),
    ],
)
def test_feature_maps(name, stride_and_size):
    net = on_meta(name)
    x = net.stem(torch.empty(1, 3, 224, 224, device="meta"))
    shapes = [tuple((x := stage(x)).shape[1:3]) for stage in net.stages]
    assert shapes == stride_and_size


@pytest.mark.parametrize(
    ("name", "eps", "momentum"),
    [
        ("b0", 1e-5, 0.1),
        ("b4", 1e-5, 0.1),
        ("b5", 1e-3, 0.01),
        ("lite4", 1e-5, 0.1),
        ("v2_b0", 1e-3, 0.1),
        ("v2_s", 1e-3, 0.1),
    ],
)
def test_batch_norm(name, eps, momentum):
    norms = [layer for layer in on_meta(name).modules() if isinstance(layer, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(eps, momentum)}


def test_kernels_and_expansions_of_b0():
    stages = on_meta("b0").stages
    depthwise = [next(layer[0] for layer in stage[-1].layers if layer[0].groups > 1) for stage in stages]
    assert [layer.kernel_size[0] for layer in depthwise] == [3, 3, 5, 3, 5, 5, 3]
    assert [layer.out_channels for layer in depthwise] == [32, 144, 240, 480, 672, 1152, 1152]


def test_lite_has_no_squeeze_excitation_and_relu6():
    kinds = {type(layer).__name__ for layer in on_meta("lite0").modules()}
    assert "ReLU6" in kinds
    assert not {"SqueezeExcite", "SiLU"} & kinds


def test_lite_takes_tensorflows_padding_and_eps():
    net = on_meta("lite0", same_padding=True, eps=1e-3)
    assert isinstance(net.stem[0], SamePaddingConv2d)
    assert net.stem[1].eps == 1e-3


@pytest.mark.parametrize("name", ["v2_b0", "v2_s"])
def test_v2_starts_with_three_fused_stages_without_squeeze_excitation(name):
    net = on_meta(name)
    assert blocks(net) == ["FusedMBConv"] * 3 + ["MBConv"] * (len(net.stages) - 3)
    squeezed = ["SqueezeExcite" in str(stage) for stage in net.stages]
    assert squeezed == [False] * 3 + [True] * (len(net.stages) - 3)


@pytest.mark.parametrize(("name", "fused", "others"), [("b0", 5, 2), ("v2_b0", 0, 6), ("v2_b0", 6, 0)])
def test_fused_stages(name, fused, others):
    assert blocks(on_meta(name, fused_stages=fused)) == ["FusedMBConv"] * fused + ["MBConv"] * others


def test_b4_with_all_stages_fused_has_seven_times_the_parameters():
    assert count_parameters(on_meta("b4", fused_stages=7)) == 132_121_624


def test_multipliers_multiply_the_nets_own_coefficients():
    for name, base, width, depth in [("b3", "b0", 1.2, 1.4), ("v2_b2", "v2_b0", 1.1, 1.2)]:
        assert count_parameters(on_meta(base, width=width, depth=depth)) == count_parameters(on_meta(name))
    scaled = on_meta("b3", width=0.5, depth=2.0)
    assert (widths(scaled), depths(scaled)) == ([16, 16, 24, 48, 64, 112, 192], [3, 6, 6, 9, 9, 12, 3])


def test_lite_keeps_its_stem_its_last_convolution_and_the_depths_of_its_end_stages():
    net = on_meta("lite0", width=2.0, depth=3.0)
    assert (net.stem[0].out_channels, net.head.in_features) == (32, 1280)
    assert widths(net) == [32, 48, 80, 160, 224, 384, 640]
    assert depths(net) == [1, 6, 6, 9, 9, 12, 1]


@pytest.mark.parametrize("name", ["lite0", "b0", "v2_b0"])
def test_any_number_of_classes_and_channels_at_any_resolution(name):
    net = on_meta(name, num_classes=7, in_channels=5)
    for resolution in (net.resolution, 97):
        assert net(torch.empty(2, 5, resolution, resolution, device="meta")).shape == (2, 7)


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_its_own_and_two_other_resolutions(name):
    net = on_meta(name)
    for resolution in (net.resolution, 160, 97):
        assert net(torch.empty(2, 3, resolution, resolution, device="meta")).shape == (2, 1000)
