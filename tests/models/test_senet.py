"""SENets: what makes them more than ResNets. Their counts are in test_all_nets.py."""

from functools import cache

import pytest
import torch
from torch import nn

from crescendo.models import create_model
from crescendo.models.layers import Net, SqueezeExcite, set_drop_path
from crescendo.models.resnet import ResidualBlock, Stage
from crescendo.models.senet import se_resnet

# Every kind of block, quick to build and to run: 1, 1, 2 and 1 blocks.
SMALL = {
    "se_resnet50": {"width": 0.25, "depth": 0.25},
    "se_resnext50_32x4d": {"width": 0.25, "depth": 0.25},
    "senet154": {"width": 0.25, "depth": 0.05},
}


def small(name: str, **arguments: object) -> Net:
    torch.manual_seed(0)
    return create_model(name, num_classes=8, **SMALL[name], **arguments)


@cache
def on_meta(name: str, **arguments: object) -> Net:
    """Shared by the tests, which must not change it."""
    with torch.device("meta"):
        return create_model(name, **arguments)


def images(count: int, resolution: int) -> torch.Tensor:
    return torch.randn(count, 3, resolution, resolution, generator=torch.Generator().manual_seed(1))


def convolutions(layers: nn.Sequential) -> list[nn.Conv2d]:
    return [layer for layer in layers if isinstance(layer, nn.Conv2d)]


@pytest.mark.parametrize(
    ("name", "depths"),
    [
        ("se_resnet50", [3, 4, 6, 3]),
        ("se_resnet101", [3, 4, 23, 3]),
        ("se_resnet152", [3, 8, 36, 3]),
        ("se_resnext50_32x4d", [3, 4, 6, 3]),
        ("se_resnext101_32x4d", [3, 4, 23, 3]),
        ("senet154", [3, 8, 36, 3]),
    ],
)
def test_depths_are_the_papers_and_every_branch_ends_in_an_se_block(name, depths):
    net = on_meta(name)
    assert [len(stage) for stage in net.stages] == depths
    for stage, out_width in zip(net.stages, (256, 512, 1024, 2048), strict=True):
        for block in stage:
            squeeze = block.branch[-1]
            assert isinstance(squeeze, SqueezeExcite)
            assert squeeze.reduce.weight.shape == (out_width // 16, out_width, 1, 1)
            assert squeeze.expand.weight.shape == (out_width, out_width // 16, 1, 1)


@pytest.mark.parametrize("name", SMALL)
def test_feature_maps_are_the_papers(name):
    net = on_meta(name, depth=SMALL[name]["depth"])
    x = net.stem(torch.empty(1, 3, 224, 224, device="meta"))
    assert x.shape == (1, 128 if name == "senet154" else 64, 56, 56)
    shapes = [(x := stage(x)).shape[1:] for stage in net.stages]
    assert shapes == [(256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7)]


@pytest.mark.parametrize("name", SMALL)
def test_takes_its_own_and_other_resolutions(name):
    net = on_meta(name, depth=SMALL[name]["depth"])
    for resolution in (224, 160, 33):
        assert net(torch.empty(2, 3, resolution, resolution, device="meta")).shape == (2, 1000)


def test_any_number_of_channels():
    net = on_meta("senet154", num_classes=3, in_channels=5, depth=0.05)
    assert net(torch.empty(2, 5, 64, 64, device="meta")).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "strides", "groups"),
    [
        ("se_resnet50", [2, 1, 1], [1, 1, 1]),
        ("se_resnext50_32x4d", [1, 2, 1], [1, 32, 1]),
        ("senet154", [1, 2, 1], [1, 64, 1]),
    ],
)
def test_where_the_stride_and_the_groups_are(name, strides, groups):
    layers = convolutions(on_meta(name).stages[1][0].branch)
    assert [layer.stride[0] for layer in layers] == strides
    assert [layer.groups for layer in layers] == groups


def test_senet154_has_half_the_width_first_and_3x3_projections_after_stage_1():
    stages = on_meta("senet154").stages
    widths = [[layer.out_channels for layer in convolutions(stage[0].branch)] for stage in stages]
    assert widths == [[128, 256, 256], [256, 512, 512], [512, 1024, 1024], [1024, 2048, 2048]]
    assert [stage[0].shortcut[0].kernel_size for stage in stages] == [(1, 1), (3, 3), (3, 3), (3, 3)]


def test_senet154_has_a_stem_of_three_convolutions():
    stem = on_meta("senet154").stem
    assert [layer.out_channels for layer in convolutions(stem)] == [64, 64, 128]
    assert [layer.kernel_size for layer in convolutions(stem)] == [(3, 3)] * 3


@pytest.mark.parametrize("name", ["se_resnet50", "senet154"])
def test_the_pool_of_the_stem_starts_at_the_first_pixel_and_rounds_up(name):
    pool = on_meta(name).stem[-1]
    x = torch.arange(6.0).repeat(6, 1)[None, None]
    assert pool(x)[0, 0, 0].tolist() == [2, 4, 5]


def test_the_gate_scales_the_branch_and_not_the_shortcut():
    torch.manual_seed(0)
    block = ResidualBlock(32, Stage(se_resnet, 8, 32, 1, 1), stride=1, share=1.0, zero_init=False).eval()
    x = torch.rand(2, 32, 4, 4)
    ungated = block.branch[:-1](x)
    squeeze = block.branch[-1]
    nn.init.zeros_(squeeze.expand.weight)
    nn.init.constant_(squeeze.expand.bias, 100.0)  # sigmoid: 1
    torch.testing.assert_close(block(x), (ungated + x).relu())
    nn.init.constant_(squeeze.expand.bias, -100.0)  # sigmoid: 0
    torch.testing.assert_close(block(x), x)


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_gets_a_gradient_that_is_not_zero(name):
    net = small(name, zero_init=True)
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.functional.cross_entropy(net(images(8, 64)), torch.arange(8)).backward()
    assert [key for key, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("name", SMALL)
def test_zero_init_starts_every_block_as_its_shortcut(name):
    block = small(name, zero_init=True).eval().stages[2][1]
    x = torch.rand(1, block.branch[0].in_channels, 4, 4)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize(
    "name",
    [name if name == "se_resnet50" else pytest.param(name, marks=pytest.mark.slow) for name in SMALL],
)
def test_compiles_without_a_graph_break(name):
    net, x = small(name), images(2, 32)
    set_drop_path(net, 0.1)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.manual_seed(2)
    logits = compiled(x)
    torch.manual_seed(2)
    torch.testing.assert_close(logits, net(x))
    torch.compiler.reset()


def test_a_net_too_narrow_for_the_reduction_keeps_one_unit():
    net = create_model("se_resnet50", num_classes=2, width=0.01, depth=0.1)
    assert {block.branch[-1].reduce.out_channels for stage in net.stages for block in stage} == {1}
