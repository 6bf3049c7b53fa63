import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from crescendo.analysis.costs import (
    ActivationCounter,
    activation_memory,
    check_resolution,
    count_macs,
    count_parameters,
)
from crescendo.models import create_model
from crescendo.models.layers import AdaptiveAveragePool, window_means
from crescendo.models.registry import find_entry


def small_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )


def test_parameters_are_those_that_train():
    net = small_net()
    assert count_parameters(net) == 277  # 216 + 16 + 45
    net[0].requires_grad_(False)
    assert count_parameters(net) == 61


def test_macs_of_convolutions_and_linear_layers():
    assert count_macs(small_net(), 10) == 21_640  # 216 * 100 + 40
    assert count_macs(small_net().half(), 20) == 86_440
    assert count_macs(nn.Conv2d(4, 8, 1, groups=4, bias=False), 2, in_channels=4) == 32


@pytest.mark.parametrize(
    "name",
    ["lenet5", "vgg11", "googlenet", "resnet20", "se_resnext50_32x4d", "mobilenet_v2", "efficientnet_v2_b0"],
)
def test_macs_are_half_of_torchs_flops(name):
    with torch.device("meta"):
        net = find_entry(name).build().eval()
    in_channels, resolution = find_entry(name).in_channels, net.min_resolution
    with FlopCounterMode(display=False) as counter:
        net(torch.empty(1, in_channels, resolution, resolution, device="meta"))
    assert count_macs(net, resolution, in_channels) * 2 == counter.get_total_flops()


def test_macs_of_matrix_products_without_a_module():
    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            tokens = x.flatten(2)
            return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)

    # Three tokens of 100 values: 3 * 3 * 100, twice.
    assert count_macs(Attention(), 10) == 1800


def test_activations_of_a_training_step():
    # Of two images: what the norm saw, 2 * 8 * 100 numbers, its means and deviations, 2 * 8, and what
    # the linear layer saw, 2 * 8.
    assert activation_memory(small_net(), 10, batch_size=2) == 4 * (1600 + 16 + 16)
    assert activation_memory(small_net().double(), 10, batch_size=2) == 8 * (1600 + 16 + 16)


def test_activations_that_share_memory_count_once():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(200, 5)
    )
    # ReLU and pool save one map, in place; the pool 64-bit indices too; the linear layer what it saw.
    assert activation_memory(net, 10, batch_size=2) == 4 * 1600 + 8 * 400 + 4 * 400
    net[1] = nn.ReLU()
    assert activation_memory(net, 10, batch_size=2) == 4 * 1600 + 8 * 400 + 4 * 400
    for parameter in net[0].parameters():
        parameter.requires_grad_(False)
    assert activation_memory(net, 10, batch_size=2) == 4 * 400


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("lenet5_modern", {}),
        ("vgg11_bn", {"width": 1 / 8}),
        ("resnet20", {"width": 4}),
        ("se_resnet50", {"width": 1 / 8}),
        ("mobilenet_v2", {"width": 1 / 8}),
        ("efficientnet_v2_b0", {"width": 1 / 4, "depth": 1 / 4}),
    ],
)
def test_activations_on_meta_are_those_of_a_real_step(name, arguments, monkeypatch):
    """Of the operators that a GPU runs: a pool is not torch's own there, which saves a map of its own."""
    monkeypatch.setattr(AdaptiveAveragePool, "forward", lambda self, x: window_means(x, self.side))
    net = create_model(name, num_classes=10, **arguments).train()
    images = torch.randn(2, 3, 64, 64)
    with ActivationCounter(net, images) as counter:
        net(images)
    assert activation_memory(net, 64, batch_size=2) == counter.total


def test_counting_leaves_the_net_as_it_was():
    net = small_net().train()
    net[0].weight.grad = torch.ones_like(net[0].weight)
    seen = []
    net[0].register_forward_hook(lambda *arguments: seen.append(arguments))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    random_state = torch.get_rng_state()
    assert count_macs(net, 10) == 21_640
    assert activation_memory(net.eval(), 10, batch_size=2) == 6528
    assert not any(module.training for module in net.modules())
    net.train()
    assert count_macs(net, 10) == 21_640
    assert all(module.training for module in net.modules())
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert net[0].weight.grad is not None
    assert seen == []
    net(torch.zeros(2, 3, 4, 4))
    assert len(seen) == 1


def test_a_compiled_net_is_counted_as_any_other():
    net = small_net()
    net.compile(backend="eager")
    assert count_macs(net, 10) == 21_640
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("name", "resolution", "reason"),
    [
        ("lenet5", 32, None),
        ("lenet5", 28, "lenet5 takes 32 px only"),
        ("lenet5", 64, "lenet5 takes 32 px only"),
        ("lenet5_modern", 27, "lenet5_modern needs 28 px or more"),
        ("lenet5_modern", 28, None),
        ("resnet20", 3, "resnet20 needs 4 px or more"),
        ("resnet20", 1000, None),
    ],
)
def test_the_reason_a_resolution_is_refused(name, resolution, reason):
    with torch.device("meta"):
        net = create_model(name, num_classes=10)
    assert check_resolution(net, resolution) == reason


def test_a_net_with_an_upper_limit_only_names_it():
    net = small_net()
    net.max_resolution = 64
    assert check_resolution(net, 64) is None
    assert check_resolution(net, 65) == "Sequential takes 64 px at most"
