import pytest
import torch
from torch import nn

from crescendo.analysis.costs import check_resolution, count_parameters
from crescendo.models import create_model
from crescendo.models.layers import LocalResponseNorm, SqueezeExcite, WithAuxiliary, set_dropout

SMALLEST = {"googlenet": 79, "googlenet_bn": 32, "se_googlenet": 32}
NAMES = list(SMALLEST)


@pytest.fixture(scope="module")
def nets() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {name: create_model(name, num_classes=10) for name in NAMES}


def images(name: str, count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, max(SMALLEST[name], 48), max(SMALLEST[name], 48), generator=generator)


def test_outputs_follow_table_1():
    with torch.device("meta"):
        net, x = create_model("googlenet"), torch.empty(1, 3, 224, 224)
        x = net.stem(x)
        assert x.shape == (1, 192, 28, 28)
        shapes = {}
        for stage in net.stages:
            for name, module in stage.named_children():
                x = module(x)
                shapes[name] = tuple(x.shape[1:])
    assert shapes == {
        "3a": (256, 28, 28),
        "3b": (480, 28, 28),
        "pool3": (480, 14, 14),
        "4a": (512, 14, 14),
        "4b": (512, 14, 14),
        "4c": (512, 14, 14),
        "4d": (528, 14, 14),
        "4e": (832, 14, 14),
        "pool4": (832, 7, 7),
        "5a": (832, 7, 7),
        "5b": (1024, 7, 7),
    }


def test_parameters_of_each_module():
    with torch.device("meta"):
        net = create_model("googlenet")
    modules = {name: module for stage in net.stages for name, module in stage.named_children()}
    weights_and_biases = {  # weights by hand from Table 1, biases one a filter
        "3a": 163_328 + 368,
        "5b": 1_442_816 + 1_264,
    }
    for name, expected in weights_and_biases.items():
        assert count_parameters(modules[name]) == expected
    without = count_parameters(net) - count_parameters(net.auxiliary)
    assert without == 6_998_552


def test_response_norm_is_behind_the_first_pool_and_in_front_of_the_second():
    with torch.device("meta"):
        stem = create_model("googlenet").stem
    norm, pool, convolution = LocalResponseNorm, nn.MaxPool2d, nn.Sequential
    assert [type(layer) for layer in stem] == [
        convolution,
        pool,
        norm,
        convolution,
        convolution,
        norm,
        pool,
    ]


@pytest.mark.parametrize(
    ("name", "num_classes", "in_channels"),
    [("googlenet", 1, 1), ("googlenet_bn", 3, 4), ("se_googlenet", 2, 1)],
)
def test_auxiliary_logits_in_train_mode_only(name, num_classes, in_channels):
    with torch.device("meta"):
        net = create_model(name, num_classes, in_channels)
    x = torch.empty(2, in_channels, 64 + SMALLEST[name], 64 + SMALLEST[name], device="meta")
    output = net.train()(x)
    assert isinstance(output, WithAuxiliary)
    assert [tuple(logits.shape) for logits in (output.logits, *output.auxiliary)] == [(2, num_classes)] * 3
    assert output.weight == 0.3
    logits = net.eval()(x)
    assert isinstance(logits, torch.Tensor)
    assert logits.shape == (2, num_classes)


@pytest.mark.parametrize("name", NAMES)
def test_any_resolution_from_the_smallest(name):
    with torch.device("meta"):
        net = create_model(name)
    for resolution in (SMALLEST[name], 224):
        assert check_resolution(net, resolution) is None
        assert net(torch.empty(2, 3, resolution, resolution, device="meta")).logits.shape == (2, 1000)
    assert check_resolution(net, SMALLEST[name] - 1) == f"{name} needs {SMALLEST[name]} px or more"


def test_googlenet_at_78_px_is_too_small_for_the_auxiliary_pool():
    with torch.device("meta"):
        net, x = create_model("googlenet"), torch.empty(2, 3, 78, 78)
    with pytest.raises(RuntimeError, match="too small"):
        net(x)


def test_auxiliary_pool_gives_4x4_by_itself_at_224_px():
    with torch.device("meta"):
        head = create_model("googlenet").auxiliary[0]
        pool, resize = head[0]
        pooled = pool(torch.empty(1, 512, 14, 14))
    assert pooled.shape == resize(pooled).shape == (1, 512, 4, 4)


@pytest.mark.parametrize("name", NAMES)
def test_auxiliary_heads_keep_their_own_dropout(name, nets):
    net = nets[name]
    assert set_dropout(net, 0.1) == 1
    own = [layer.p for layer in net.modules() if isinstance(layer, nn.Dropout)]
    assert own == [0.7, 0.7]
    assert set_dropout(net, net.head[0].published) == 1


def test_a_squeeze_excite_of_reduction_16_behind_each_module():
    with torch.device("meta"):
        net = create_model("se_googlenet")
    modules = [module for stage in net.stages for module in stage if isinstance(module, nn.Sequential)]
    gates = [module[1] for module in modules]
    assert all(isinstance(gate, SqueezeExcite) for gate in gates)
    assert [gate.reduce.out_channels for gate in gates] == [16, 30, 32, 32, 32, 33, 52, 52, 64]
    assert all(gate.reduce.bias is not None and gate.expand.bias is not None for gate in gates)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_gradient_that_is_not_zero(name, nets):
    net = nets[name].train()
    output = net(images(name, count=4))
    losses = [nn.functional.cross_entropy(logits, torch.arange(4)) for logits in output.auxiliary]
    loss = nn.functional.cross_entropy(output.logits, torch.arange(4)) + output.weight * sum(losses)
    loss.backward()
    dead = [key for key, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    net.zero_grad(set_to_none=True)
    assert dead == []


def test_initial_weights_have_variance_one_over_fan_in(nets):
    net = nets["googlenet"]
    by_fan_in = {147: net.stem[0][0], 1440: net.stages[2][2].branch_3x3[1][0], 2048: net.auxiliary[0][3]}
    for fan_in, layer in by_fan_in.items():
        assert layer.weight.var().item() == pytest.approx(1 / fan_in, rel=0.1)
        assert layer.weight.abs().max().item() == pytest.approx((3 / fan_in) ** 0.5, rel=0.01)
    layers = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    biases = [layer.bias.unique().item() for layer in layers]
    assert biases.count(0) == 3
    assert sorted(biases)[3:] == pytest.approx([0.2] * (len(layers) - 3))


def test_training_starts_near_the_logarithm_of_the_classes():
    torch.manual_seed(0)
    net = create_model("googlenet", num_classes=1000)
    for layer in net.modules():
        if isinstance(layer, nn.Dropout):  # at 0.7 it would add up to 1.4 to the loss, by the draw
            layer.eval()
    output = net(images("googlenet", count=8))
    for logits in (output.logits, *output.auxiliary):
        assert nn.functional.cross_entropy(logits, torch.arange(8)).item() == pytest.approx(6.9, abs=0.8)


@pytest.mark.parametrize("name", NAMES)
def test_channels_last_stays(name, nets):
    net = nets[name].eval().to(memory_format=torch.channels_last)
    x = images(name).contiguous(memory_format=torch.channels_last)
    left = []
    for layer in net.modules():
        layer.register_forward_hook(
            lambda layer, inputs, output: (
                left.append(layer)
                if output.ndim == 4 and not output.is_contiguous(memory_format=torch.channels_last)
                else None
            )
        )
    with torch.no_grad():
        net(x)
    for layer in net.modules():
        layer._forward_hooks.clear()
    net.to(memory_format=torch.contiguous_format)
    assert left == []


def assert_compiles(net: nn.Module, x: torch.Tensor) -> None:
    """Without a graph break. Dropout is off, and statistics do not move between the two calls."""
    set_dropout(net, 0.0)
    for layer in net.modules():
        if isinstance(layer, nn.Dropout | nn.BatchNorm2d):
            layer.eval()
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), net(x))
    torch.compiler.reset()


def test_compiles_with_auxiliary_heads(nets):
    assert_compiles(nets["googlenet"].train(), images("googlenet"))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_compiles_and_exports(name, nets):
    net, x = nets[name], images(name)
    assert_compiles(net.train(), x)
    assert_compiles(net.eval(), x)
    exported = torch.export.export(net, (x,)).module()
    torch.testing.assert_close(exported(x), net(x))
