from functools import cache

import pytest
import torch
from torch import nn

from crescendo.analysis.costs import count_macs
from crescendo.models.layers import DropPath
from crescendo.models.mobilenet import Bottleneck, MobileNetV2, mobilenet_v2


@cache
def on_meta(**arguments: object) -> MobileNetV2:
    with torch.device("meta"):
        return mobilenet_v2(**arguments)


def test_feature_maps_follow_table_2():
    net = on_meta()
    x = net.stem(torch.empty(1, 3, 224, 224, device="meta"))
    assert x.shape == (1, 32, 112, 112)
    shapes = [(x := stage(x)).shape[1:] for stage in net.stages]
    assert shapes == [
        (16, 112, 112),
        (24, 56, 56),
        (32, 28, 28),
        (64, 14, 14),
        (96, 14, 14),
        (160, 7, 7),
        (320, 7, 7),
    ]
    assert [len(stage) for stage in net.stages] == [1, 2, 3, 4, 3, 3, 1]
    assert net.last_conv(x).shape == (1, 1280, 7, 7)


def test_bottlenecks_expand_six_times_and_project_without_activation():
    expanded = on_meta().stages[1][0].layers
    assert [type(layer).__name__ for block in expanded for layer in block] == [
        *("Conv2d", "BatchNorm2d", "ReLU6"),
        *("Conv2d", "BatchNorm2d", "ReLU6"),
        *("Conv2d", "BatchNorm2d"),
    ]
    assert [(c[0].out_channels, c[0].groups, c[0].stride[0]) for c in expanded] == [
        (96, 1, 1),
        (96, 96, 2),
        (24, 1, 1),
    ]
    assert [c[0].out_channels for c in on_meta().stages[0][0].layers] == [32, 16]


@pytest.mark.parametrize(
    ("width", "stem", "widths", "last"),
    [
        (0.35, 16, [8, 8, 16, 24, 32, 56, 112], 1280),
        (0.75, 24, [16, 24, 24, 48, 72, 120, 240], 1280),
        (1.4, 48, [24, 32, 48, 88, 136, 224, 448], 1792),
    ],
)
def test_width_scales_to_multiples_of_8_and_never_the_last_convolution_below_1280(width, stem, widths, last):
    net = on_meta(width=width)
    assert net.stem[0].out_channels == stem
    assert [stage[-1].layers[-1][0].out_channels for stage in net.stages] == widths
    assert net.head.in_features == last


def test_depth_scales_every_stage():
    assert [len(stage) for stage in on_meta(depth=1.4).stages] == [2, 3, 5, 6, 5, 5, 2]


def test_the_paper_of_efficientnet_scaled_it_to_as_many_operations():
    assert count_macs(on_meta(depth=4.0), 224) / 1e9 == pytest.approx(1.2, abs=0.05)
    assert count_macs(on_meta(width=2.0), 224) / 1e9 == pytest.approx(1.1, abs=0.05)


def test_a_block_adds_its_input_where_stride_and_width_stay():
    torch.manual_seed(0)
    block, x = Bottleneck(8, 8, expansion=6, stride=1, share=1.0), torch.randn(64, 8, 4, 4)
    branch, before = block.layers(x), x.clone()
    torch.testing.assert_close(block(x), branch + x)
    assert torch.equal(x, before)
    block.drop_path.set_rate(0.5)
    dropped = (block(x) == x).flatten(1).all(1).sum().item()
    assert 10 < dropped < 54
    assert Bottleneck(8, 8, expansion=6, stride=2, share=1.0).drop_path is None
    assert Bottleneck(8, 16, expansion=6, stride=1, share=1.0).drop_path is None


def test_drop_path_shares_are_the_blocks_positions():
    shares = [layer.share for layer in on_meta().modules() if isinstance(layer, DropPath)]
    residual = [3, 5, 6, 8, 9, 10, 12, 13, 15, 16]  # of 17
    assert shares == pytest.approx([position / 17 for position in residual])


def test_initialisation():
    torch.manual_seed(0)
    net = mobilenet_v2()
    assert net.last_conv[0].weight.std().item() == pytest.approx((2 / 1280) ** 0.5, rel=0.02)
    assert net.head.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not net.head.bias.any()
    norms = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert all((norm.weight == 1).all() for norm in norms)


def test_any_number_of_classes_and_channels_at_any_resolution():
    net = on_meta(num_classes=7, in_channels=5)
    assert net.resolution == 224
    for resolution in (224, 97):
        assert net(torch.empty(2, 5, resolution, resolution, device="meta")).shape == (2, 7)


@pytest.mark.parametrize("arguments", [{"width": 0.0}, {"width": -1.0}, {"depth": float("nan")}])
def test_a_multiplier_that_is_not_above_0_is_refused(arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))}=.*: a multiplier is above 0"):
        on_meta(**arguments)
