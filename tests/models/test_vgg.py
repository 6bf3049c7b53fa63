import math

import pytest
import torch
from torch import nn

from crescendo.analysis.costs import check_resolution, count_parameters
from crescendo.models import create_model
from crescendo.models.layers import Dropout, set_dropout

NAMES = ["vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"]


def narrow(name: str) -> nn.Module:
    torch.manual_seed(0)
    return create_model(name, num_classes=10, width=1 / 8)


@pytest.mark.parametrize(
    ("name", "convolutions"),
    [
        ("vgg11", [1, 1, 2, 2, 2]),
        ("vgg13", [2, 2, 2, 2, 2]),
        ("vgg16", [2, 2, 3, 3, 3]),
        ("vgg19", [2, 2, 4, 4, 4]),
    ],
)
def test_stages_follow_table_1(name, convolutions):
    with torch.device("meta"):
        for net in (create_model(name), create_model(f"{name}_bn")):
            x = torch.empty(1, 3, 224, 224)
            shapes = [(x := stage(x)).shape[1:] for stage in net.stages]
            assert shapes == [(64, 112, 112), (128, 56, 56), (256, 28, 28), (512, 14, 14), (512, 7, 7)]
            assert _convolutions(net) == convolutions


def _convolutions(net: nn.Module) -> list[int]:
    return [sum(isinstance(layer, nn.Conv2d) for layer in stage) for stage in net.stages]


def test_width_goes_to_the_nearest_multiple_of_eight_not_below_nine_tenths():
    with torch.device("meta"):
        net = create_model("vgg16", width=0.3)
    # 19.2 (16 is nearer, but too small), 38.4, 76.8, 153.6, 153.6 and, in the head, 1228.8
    assert [stage[0].out_channels for stage in net.stages] == [24, 40, 80, 152, 152]
    assert [layer.out_features for layer in net.head if isinstance(layer, nn.Linear)] == [1232, 1232, 1000]
    with torch.device("meta"):
        assert create_model("vgg16", width=0.01).stages[0][0].out_channels == 8
        assert create_model("vgg16", width=1.1).stages[0][0].out_channels == 72


def test_depth_is_rounded_up():
    with torch.device("meta"):
        assert _convolutions(create_model("vgg16", depth=1.2)) == [3, 3, 4, 4, 4]
        assert _convolutions(create_model("vgg16", depth=0.5)) == [1, 1, 2, 2, 2]
        assert _convolutions(create_model("vgg16_bn", depth=2)) == [4, 4, 6, 6, 6]


@pytest.mark.parametrize("axis", ["width", "depth"])
@pytest.mark.parametrize("multiplier", [0, -1, math.nan, math.inf])
def test_a_multiplier_is_above_zero(axis, multiplier):
    with pytest.raises(ValueError, match=f"{axis}={multiplier}: a multiplier is above 0"):
        create_model("vgg16", **{axis: multiplier})


@pytest.mark.parametrize("name", ["vgg11", "vgg16_bn"])
def test_any_resolution_from_32_px_classes_and_channels(name):
    for num_classes, in_channels, resolutions in ((1, 1, [33]), (3, 4, [32, 224])):
        with torch.device("meta"):
            net = create_model(name, num_classes, in_channels)
        for resolution in resolutions:
            assert check_resolution(net, resolution) is None
            x = torch.empty(2, in_channels, resolution, resolution, device="meta")
            assert net(x).shape == (2, num_classes)
    assert check_resolution(net, 31) == f"{name} needs 32 px or more"
    with pytest.raises(RuntimeError, match="too small"):
        net(torch.empty(2, in_channels, 31, 31, device="meta"))


def test_both_dropouts_of_the_head_are_the_curriculums():
    net, x = narrow("vgg11").train(), torch.randn(2, 3, 32, 32)
    assert [type(layer) for layer in net.head].count(Dropout) == 2
    assert set_dropout(net, 0.0) == 2
    assert torch.equal(net(x), net(x))


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_gradient_that_is_not_zero(name):
    net = narrow(name)
    # A bias in front of a batch norm has none but rounding errors, which are not zero either.
    nn.functional.cross_entropy(net(torch.randn(8, 3, 64, 64)), torch.arange(8)).backward()
    dead = [key for key, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


@pytest.mark.parametrize(
    "name", ["vgg11", *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[1:])]
)
def test_compiles_without_a_graph_break(name):
    net, x = narrow(name), torch.randn(2, 3, 32, 32)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.manual_seed(2)
    logits = compiled(x)
    torch.manual_seed(2)
    torch.testing.assert_close(logits, net(x))
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_exports(name):
    net, x = narrow(name), torch.randn(2, 3, 32, 32)
    exported = torch.export.export(net.eval(), (x,)).module()
    torch.testing.assert_close(exported(x), net(x))


def test_signal_keeps_its_size_through_the_initial_weights():
    net = narrow("vgg19").eval()
    with torch.no_grad():
        logits = net(torch.randn(16, 3, 64, 64))
    assert 0.01 < logits.std().item() < 10


def test_batch_norm_adds_two_parameters_a_filter():
    with torch.device("meta"):
        added = count_parameters(create_model("vgg16_bn")) - count_parameters(create_model("vgg16"))
    assert added == 2 * (2 * 64 + 2 * 128 + 3 * 256 + 6 * 512)
