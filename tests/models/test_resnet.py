"""ResNets, plain nets and ResNeXts: their tables, their scaling, and torchvision's as the reference."""

from functools import cache
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

from crescendo.analysis.costs import count_macs, count_parameters
from crescendo.models import create_model, load_weights
from crescendo.models.layers import DropPath, Net, scaled_depth, scaled_width, set_drop_path
from crescendo.models.resnet import ResidualBlock, Stage, basic, bottleneck

IN_TORCHVISION = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d")
ONE_OF_EACH_BLOCK = ("resnet18", "plain18", "resnet50", "resnext50_32x4d")


def small(name: str, **arguments: object) -> Net:
    """Every kind of block, quick to build and to run: ResNet-50 with 1, 1, 2, 1 blocks."""
    torch.manual_seed(0)
    return create_model(name, num_classes=8, width=0.25, depth=0.25, **arguments)


@cache
def on_meta(name: str, **arguments: object) -> Net:
    """Shared by the tests, which must not change it."""
    with torch.device("meta"):
        return create_model(name, **arguments)


def images(count: int, resolution: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, resolution, resolution, generator=generator, dtype=dtype)


def with_random_state(net: nn.Module) -> nn.Module:
    """`net`, built on meta, in float64 with random weights, BN gains, shifts and statistics."""
    net = net.to_empty(device="cpu").double()
    generator = torch.Generator().manual_seed(2)
    for key, tensor in net.state_dict().items():
        if key.endswith("num_batches_tracked"):
            tensor.zero_()
        elif tensor.ndim > 1:
            fan_in = tensor[0].numel()
            tensor.normal_(std=(2 / fan_in) ** 0.5, generator=generator)
        elif key.endswith(("weight", "running_var")):
            tensor.uniform_(0.5, 1.5, generator=generator)
        else:
            tensor.normal_(std=0.3, generator=generator)
    return net


def relative_difference(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def compare(ours: nn.Module, theirs: nn.Module, file: Path) -> None:
    """The same logits in eval mode; the same logits, gradients and BN statistics in train mode."""
    theirs = with_random_state(theirs)
    ours = ours.to_empty(device="cpu").double()
    torch.save(theirs.state_dict(), file)
    assert load_weights(ours, file).loaded == tuple(ours.state_dict())
    file.unlink()  # up to half a gigabyte
    x = images(2, 64, torch.float64)
    with torch.no_grad():
        assert relative_difference(ours.eval()(x), theirs.eval()(x)) < 1e-9
    for net in (ours, theirs):
        nn.functional.cross_entropy(net.train()(x), torch.tensor([3, 5])).backward()
    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    assert max(relative_difference(own.grad, reference.grad) for own, reference in pairs) < 1e-9
    pairs = zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True)
    assert all(torch.allclose(own, reference, rtol=1e-9) for own, reference in pairs)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_a_short_net_computes_what_torchvisions_does(name, tmp_path):
    of_torchvision = torchvision.models.resnet
    block = of_torchvision.BasicBlock if name == "resnet18" else of_torchvision.Bottleneck
    depths = [1, 1, 1, 1] if name == "resnet18" else [1, 1, 2, 1]
    groups = {"groups": 32, "width_per_group": 4} if name == "resnext50_32x4d" else {}
    with torch.device("meta"):
        theirs = of_torchvision.ResNet(block, depths, num_classes=10, **groups)
        ours = create_model(name, num_classes=10, depth=0.25)
    compare(ours, theirs, tmp_path / "state.pth")


@pytest.mark.slow
@pytest.mark.parametrize("name", IN_TORCHVISION)
def test_a_net_computes_what_torchvisions_does(name, tmp_path):
    with torch.device("meta"):
        ours, theirs = create_model(name), torchvision.models.get_model(name)
    compare(ours, theirs, tmp_path / "state.pth")


@pytest.mark.parametrize("name", IN_TORCHVISION)
def test_the_state_is_registered_in_torchvisions_order(name):
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name).state_dict()
    ours = on_meta(name).state_dict()
    assert [(key.rpartition(".")[2], tensor.shape) for key, tensor in ours.items()] == [
        (key.rpartition(".")[2], tensor.shape) for key, tensor in theirs.items()
    ]


@pytest.mark.parametrize(
    ("name", "depths"),
    [
        ("resnet18", [2, 2, 2, 2]),
        ("resnet34", [3, 4, 6, 3]),
        ("resnet50", [3, 4, 6, 3]),
        ("resnet101", [3, 4, 23, 3]),
        ("resnet152", [3, 8, 36, 3]),
        ("plain18", [2, 2, 2, 2]),
        ("plain34", [3, 4, 6, 3]),
        ("resnext50_32x4d", [3, 4, 6, 3]),
        ("resnext101_32x4d", [3, 4, 23, 3]),
    ],
)
def test_depths_are_those_of_table_1(name, depths):
    assert [len(stage) for stage in on_meta(name).stages] == depths


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("resnet18", [64, 128, 256, 512]),
        ("plain18", [64, 128, 256, 512]),
        ("resnet50", [256, 512, 1024, 2048]),
        ("resnext50_32x4d", [256, 512, 1024, 2048]),
    ],
)
def test_feature_maps_are_those_of_table_1(name, widths):
    net = on_meta(name, depth=0.25)
    x = net.stem(torch.empty(1, 3, 224, 224, device="meta"))
    assert x.shape == (1, 64, 56, 56)
    shapes = [(x := stage(x)).shape[1:] for stage in net.stages]
    assert shapes == [(width, side, side) for width, side in zip(widths, (56, 28, 14, 7), strict=True)]


@pytest.mark.parametrize("name", ONE_OF_EACH_BLOCK)
def test_takes_its_own_and_other_resolutions(name):
    net = on_meta(name, depth=0.25)
    for resolution in (224, 160, 33):
        assert net(torch.empty(2, 3, resolution, resolution, device="meta")).shape == (2, 1000)


@pytest.mark.parametrize("name", ONE_OF_EACH_BLOCK)
def test_every_parameter_gets_a_gradient_that_is_not_zero(name):
    net = small(name)
    nn.functional.cross_entropy(net(images(8, 64)), torch.arange(8)).backward()
    assert [key for key, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(
    "name",
    [
        name if name == "resnet50" else pytest.param(name, marks=pytest.mark.slow)
        for name in ONE_OF_EACH_BLOCK
    ],
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


def test_any_number_of_channels():
    net = on_meta("resnet50", num_classes=3, in_channels=5)
    assert net(torch.empty(2, 5, 64, 64, device="meta")).shape == (2, 3)


def test_the_plain_net_lacks_the_shortcuts_and_nothing_else():
    plain, residual = on_meta("plain34").state_dict(), on_meta("resnet34").state_dict()
    assert list(plain) == [key for key in residual if ".shortcut." not in key]
    block = small("plain18").eval().stages[0][0]
    x = torch.rand(1, 16, 4, 4)
    assert torch.equal(block(x), block.branch(x).relu())


def test_a_block_that_starts_at_zero_is_its_shortcut():
    block = ResidualBlock(16, Stage(bottleneck, 4, 16, 1, 1), stride=1, share=1.0, zero_init=True)
    x = torch.rand(2, 16, 4, 4)
    assert torch.equal(block(x), x)
    gains = [layer.weight.unique().tolist() for layer in block.branch if isinstance(layer, nn.BatchNorm2d)]
    assert gains == [[1], [1], [0]]


def test_zero_init_zeroes_one_gain_a_block_and_is_off_unless_asked_for():
    def zeroed(net: Net) -> int:
        norms = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
        return sum(not norm.weight.any() for norm in norms)

    assert zeroed(small("resnet50")) == 0
    assert zeroed(small("resnet50", zero_init=True)) == 1 + 1 + 2 + 1


def test_the_input_of_a_block_is_not_changed():
    block = ResidualBlock(8, Stage(basic, 8, 8, 1, 1), stride=1, share=1.0, zero_init=False)
    x = torch.randn(2, 8, 4, 4)
    before = x.clone()
    block(x)
    assert torch.equal(x, before)


def test_the_stride_is_on_the_3x3():
    branch = on_meta("resnet50").stages[1][0].branch
    assert [layer.stride for layer in branch if isinstance(layer, nn.Conv2d)] == [(1, 1), (2, 2), (1, 1)]


def test_only_the_3x3_of_a_resnext_is_grouped():
    branch = on_meta("resnext50_32x4d").stages[3][0].branch
    convolutions = [layer for layer in branch if isinstance(layer, nn.Conv2d)]
    assert [layer.groups for layer in convolutions] == [1, 32, 1]
    assert [layer.out_channels for layer in convolutions] == [1024, 1024, 2048]


def test_drop_path_shares_rise_linearly_to_one_also_when_scaled():
    for depth, blocks in ((1.0, 8), (2.0, 16)):
        net = on_meta("resnet18", depth=depth)
        shares = [layer.share for layer in net.modules() if isinstance(layer, DropPath)]
        assert shares == pytest.approx([block / blocks for block in range(1, blocks + 1)])


def test_a_dropped_block_is_its_shortcut():
    torch.manual_seed(0)
    block = ResidualBlock(4, Stage(basic, 4, 4, 1, 1), stride=1, share=1.0, zero_init=False)
    block.drop_path.set_rate(0.5)
    x = torch.rand(64, 4, 3, 3)
    passed = (block(x) == x).flatten(1).all(1)
    assert 10 < passed.sum().item() < 54


def test_convolutions_are_initialised_by_fan_out():
    torch.manual_seed(0)
    net = create_model("resnet18")
    assert net.stem[0].weight.std().item() == pytest.approx((2 / (64 * 49)) ** 0.5, rel=0.05)
    assert net.stages[3][1].branch[3].weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)


@pytest.mark.parametrize(
    ("width", "multiplier", "multiple_of", "scaled"),
    [
        (64, 1.0, 8, 64),
        (64, 1.1, 8, 72),  # 70.4: 72 is nearer than 64
        (64, 0.05, 8, 8),  # 3.2
        (16, 1.2, 8, 24),  # 19.2: 16 is nearer, but below 90% of it
        (128, 1.1, 32, 128),  # 140.8
        (128, 1.2, 32, 160),  # 153.6
    ],
)
def test_scaled_widths(width, multiplier, multiple_of, scaled):
    assert scaled_width(width, multiplier, multiple_of) == scaled


def test_scaled_depths_are_rounded_up():
    assert [scaled_depth(depth, 1.1) for depth in (1, 3, 10, 20)] == [2, 4, 11, 22]
    assert [scaled_depth(depth, 0.5) for depth in (1, 3, 4)] == [1, 2, 2]


def test_multipliers_scale_every_stage_and_the_stem():
    net = on_meta("resnet50", width=1.1, depth=1.2)
    assert [len(stage) for stage in net.stages] == [4, 5, 8, 4]
    assert net.stem[0].out_channels == 72
    assert [stage[0].branch[0].out_channels for stage in net.stages] == [72, 144, 280, 560]
    assert [stage[0].branch[6].out_channels for stage in net.stages] == [280, 560, 1128, 2256]
    assert net.head.in_features == 2256


def test_a_scaled_resnext_keeps_its_groups():
    net = on_meta("resnext50_32x4d", width=1.1)
    grouped = [stage[0].branch[3] for stage in net.stages]
    assert [layer.groups for layer in grouped] == [32, 32, 32, 32]
    assert [layer.out_channels for layer in grouped] == [128, 288, 576, 1120]


def test_twice_the_width_is_four_times_the_macs():
    base, wide = on_meta("resnet18"), on_meta("resnet18", width=2.0)
    assert count_macs(wide, 224) / count_macs(base, 224) == pytest.approx(4, rel=0.04)


def test_more_depth_is_more_blocks_of_the_same_kind():
    base, deep = on_meta("resnet18"), on_meta("resnet18", depth=2.0)
    extra = 4 * 9 * (64**2 + 128**2 + 256**2 + 512**2) + 8 * (64 + 128 + 256 + 512)
    assert count_parameters(deep) - count_parameters(base) == extra


@pytest.mark.parametrize("arguments", [{"width": 0}, {"depth": -1}, {"width": float("nan")}])
def test_a_multiplier_that_is_not_above_0_is_refused(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"{name}=.*a multiplier is above 0"):
        on_meta("resnet50", **arguments)
