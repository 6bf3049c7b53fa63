import pytest
import torch
from torch import nn

from crescendo.analysis.costs import check_resolution, count_macs, count_parameters
from crescendo.models import create_model


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


def test_counting_leaves_the_net_as_it_was():
    net = small_net().train()
    net[0].weight.grad = torch.ones_like(net[0].weight)
    seen = []
    net[0].register_forward_hook(lambda *arguments: seen.append(arguments))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    random_state = torch.get_rng_state()
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
