"""The blocks and the net; their tables are in test_efficientnet_tables.py."""

import math

import hydra
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crescendo.errors import UserError
from crescendo.models import create_model
from crescendo.models.efficientnet import (
    EfficientNet,
    FusedMBConv,
    MBConv,
    SamePaddingConv2d,
    SiLU,
    Stage,
    with_fused_stages,
)
from crescendo.models.layers import ConvNormActivation, DropPath, SqueezeExcite, set_drop_path

ROWS = (
    Stage("fused", 1, 3, 1, 8, 2, 0.0),
    Stage("fused", 4, 3, 2, 16, 2, 0.25),
    Stage("mbconv", 1, 3, 1, 16, 1, 0.25),
    Stage("mbconv", 6, 5, 2, 24, 3, 0.25),
)


def small(rows: object = ROWS, **arguments: object) -> EfficientNet:
    torch.manual_seed(0)
    return EfficientNet(rows, stem=8, last=32, num_classes=5, **arguments)


def images(resolution: int = 32, count: int = 8) -> Tensor:
    return torch.randn(count, 3, resolution, resolution, generator=torch.Generator().manual_seed(1))


def block(row: Stage, in_width: int = 8) -> MBConv:
    torch.manual_seed(0)
    kind = {"mbconv": MBConv, "fused": FusedMBConv}[row.block]

    def layer(*sizes: int, activation: type[nn.Module] | None = nn.SiLU, groups: int = 1) -> nn.Module:
        return ConvNormActivation(*sizes, activation=activation, groups=groups)

    return kind(in_width, row, row.stride, layer, DropPath(0.0, share=1.0))


def layers(module: nn.Module) -> list[str]:
    """'3x3/2 48' is a convolution to 48 channels, 'dw' a depthwise one."""
    names = []
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            kind = "dw" if layer.groups > 1 else f"{layer.kernel_size[0]}x{layer.kernel_size[1]}"
            names.append(f"{kind}/{layer.stride[0]} {layer.out_channels}")
        elif isinstance(layer, nn.BatchNorm2d | nn.SiLU | SqueezeExcite):
            names.append({nn.BatchNorm2d: "bn", nn.SiLU: "silu", SqueezeExcite: "se"}[type(layer)])
    return names


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            Stage("mbconv", 6, 5, 2, 16, 1, 0.25),
            [
                "1x1/1 48",
                "bn",
                "silu",
                "dw/2 48",
                "bn",
                "silu",
                "se",
                "1x1/1 2",
                "1x1/1 48",
                "1x1/1 16",
                "bn",
            ],
        ),
        (Stage("mbconv", 1, 3, 1, 16, 1, 0.0), ["dw/1 8", "bn", "silu", "1x1/1 16", "bn"]),
        (Stage("fused", 4, 3, 2, 16, 1, 0.0), ["3x3/2 32", "bn", "silu", "1x1/1 16", "bn"]),
        (Stage("fused", 1, 3, 2, 16, 1, 0.0), ["3x3/2 16", "bn", "silu"]),
        (
            Stage("fused", 4, 3, 1, 16, 1, 0.25),
            ["3x3/1 32", "bn", "silu", "se", "1x1/1 2", "1x1/1 32", "1x1/1 16", "bn"],
        ),
        (Stage("fused", 1, 3, 1, 16, 1, 0.25), ["se", "1x1/1 2", "1x1/1 8", "3x3/1 16", "bn", "silu"]),
    ],
)
def test_layers_of_a_block(row, expected):
    assert layers(block(row)) == expected


def test_squeeze_excitation_uses_silu_and_at_least_one_channel():
    squeeze = block(Stage("mbconv", 6, 3, 1, 8, 1, 0.25), in_width=2).layers[2]
    assert isinstance(squeeze.activation, SiLU)
    assert squeeze.reduce.out_channels == 1


@pytest.mark.parametrize("name", ["mbconv", "fused"])
@pytest.mark.parametrize("expansion", [1, 4])
def test_a_block_adds_its_input_where_stride_and_width_stay(name, expansion):
    row = Stage(name, expansion, 3, 1, 8, 1, 0.25)
    residual, x = block(row), torch.randn(64, 8, 4, 4)
    branch, before = residual.layers(x), x.clone()
    torch.testing.assert_close(residual(x), branch + x)
    with torch.no_grad():
        torch.testing.assert_close(residual(x), branch + x)
    assert torch.equal(x, before)
    residual.drop_path.set_rate(0.5)
    dropped = (residual(x) == x).flatten(1).all(1).sum().item()
    assert 10 < dropped < 54
    assert block(row._replace(stride=2)).drop_path is None
    assert block(row._replace(width=16)).drop_path is None


def test_silu_is_in_place_only_where_autograd_does_not_need_its_input():
    x = torch.linspace(-5, 5, 11)
    expected = F.silu(x)
    needed = x.clone().requires_grad_() * 1
    torch.testing.assert_close(SiLU()(needed), expected)
    torch.testing.assert_close(needed.detach(), x)
    assert SiLU()(x) is x
    torch.testing.assert_close(x, expected)


@pytest.mark.parametrize("resolution", [1, 4, 5, 6, 7, 8, 9])
@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_same_padding_puts_the_odd_pixel_last(resolution, kernel_size, stride):
    convolution = SamePaddingConv2d(1, 1, kernel_size, stride, kernel_size // 2, bias=False)
    x = torch.randn(1, 1, resolution, resolution + 1)
    pads = []
    for size in (resolution + 1, resolution):
        total = kernel_size - 1 if stride == 1 else kernel_size - (1 if size % 2 else 2)
        pads += [total // 2, math.ceil(total / 2)]
    expected = F.conv2d(F.pad(x, pads), convolution.weight, stride=stride)
    assert expected.shape[2:] == (math.ceil(resolution / stride), math.ceil((resolution + 1) / stride))
    torch.testing.assert_close(convolution(x), expected)


def test_same_padding_and_eps_are_the_nets_own():
    net = small(same_padding=True, eps=1e-3, momentum=0.05)
    strided = [
        layer for layer in net.modules() if isinstance(layer, nn.Conv2d) and layer.kernel_size > (1, 1)
    ]
    assert all(isinstance(layer, SamePaddingConv2d) for layer in strided)
    norms = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.05)}
    assert not torch.allclose(net.eval()(images()), small(eps=1e-3).eval()(images()))
    assert net(images(33)).shape == (8, 5)


def test_block_i_of_n_is_dropped_at_i_over_n():
    net = small(drop_path=0.4)
    blocks = [block for stage in net.stages for block in stage]
    shares = [getattr(block.drop_path, "share", None) for block in blocks]
    assert isinstance(blocks[0].drop_path, nn.Identity)
    assert shares == [None, 1 / 8, None, 3 / 8, 4 / 8, None, 6 / 8, 7 / 8]
    drops = [layer for layer in net.modules() if isinstance(layer, DropPath)]
    assert [round(drop.probability.item(), 6) for drop in drops] == [0.05, 0.15, 0.2, 0.3, 0.35]


def test_smallest_resolution_is_the_overall_stride():
    assert small().min_resolution == 8
    assert small()(images(8)).shape == (8, 5)


def test_every_parameter_gets_a_gradient_that_is_not_zero():
    for activation in (SiLU, nn.ReLU, lambda: nn.ReLU6(inplace=True)):
        net = small(activation=activation)
        F.cross_entropy(net(images()), torch.arange(8) % 5).backward()
        assert [key for key, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_rows_may_be_mappings_as_a_yaml_gives_them():
    target = "crescendo.models.efficientnet.EfficientNet"
    rows = [row._asdict() for row in ROWS]
    torch.manual_seed(0)
    config = {"_target_": target, "stages": rows, "stem": 8, "last": 32, "num_classes": 5}
    net = hydra.utils.instantiate(config)
    assert str(net) == str(small())
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), small().parameters(), strict=True))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (ROWS[0]._asdict() | {"widht": 3}, "a stage has block, expansion, .*, not .*widht"),
        ({"block": "mbconv"}, "a stage has block, expansion, .*, not block"),
        (ROWS[0]._replace(block="mbconf"), "block=mbconf: blocks are mbconv, fused. Did you mean mbconv?"),
        (ROWS[0]._replace(depth=0), "depth=0.*must be 1 or more"),
        (ROWS[0]._replace(kernel_size=4), "kernel_size=4.*kernel_size odd"),
        (ROWS[0]._replace(se_ratio=-1.0), "se_ratio=-1.0.*se_ratio 0 or more"),
    ],
)
def test_a_wrong_row_is_refused(row, message):
    with pytest.raises(UserError, match=message):
        small([row])


def test_fused_stages_are_the_first_ones_and_have_no_squeeze_excitation():
    rows = with_fused_stages(ROWS, 3)
    assert [row.block for row in rows] == ["fused", "fused", "fused", "mbconv"]
    assert [row.se_ratio for row in rows] == [0, 0, 0, 0.25]
    assert [row.block for row in with_fused_stages(ROWS, 0)] == ["mbconv"] * 4
    assert {row.se_ratio for row in with_fused_stages(ROWS, 0)} == {0.25}
    for count in (-1, 5):
        with pytest.raises(UserError, match=f"fused_stages={count}: this net has 4 stages"):
            with_fused_stages(ROWS, count)


def test_initialisation_is_the_authors():
    torch.manual_seed(0)
    net = create_model("efficientnet_b0")
    assert net.last_conv[0].weight.std().item() == pytest.approx((2 / 1280) ** 0.5, rel=0.02)
    depthwise = net.stages[5][1].layers[1][0]
    assert depthwise.weight.shape == (1152, 1, 5, 5)
    assert depthwise.weight.std().item() == pytest.approx((2 / 25) ** 0.5, rel=0.02)
    squeeze = net.stages[5][1].layers[2]
    assert squeeze.expand.weight.std().item() == pytest.approx((2 / 1152) ** 0.5, rel=0.02)
    assert not squeeze.expand.bias.any()
    assert not squeeze.reduce.bias.any()
    bound = 1000**-0.5
    assert 0.99 * bound < net.head.weight.abs().max().item() <= bound
    assert not net.head.bias.any()


@pytest.mark.parametrize(("train", "same_padding"), [(True, True), (False, False)])
def test_compiles_without_a_graph_break(train, same_padding):
    net, x = small(same_padding=same_padding).train(train), images()
    set_drop_path(net, 0.1)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    with torch.set_grad_enabled(train):
        torch.manual_seed(2)
        logits = compiled(x)
        torch.manual_seed(2)
        torch.testing.assert_close(logits, net(x))
    torch.compiler.reset()


def test_exports():
    net, x = small().eval(), images()
    torch.testing.assert_close(torch.export.export(net, (x,)).module()(x), net(x))


def test_channels_last_stays_channels_last():
    net = small().to(memory_format=torch.channels_last).eval()
    x = images().to(memory_format=torch.channels_last)
    with torch.no_grad():
        assert net.stages(net.stem(x)).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(net(x), small().eval()(images()))
