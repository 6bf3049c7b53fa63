"""Scaled nets against published counts, and against multiply-accumulates counted by forward hooks."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from crescendo.analysis.costs import count_macs, count_parameters, shapes_of
from crescendo.errors import UserError
from crescendo.models import create_model
from crescendo.scaling.budgets import Training, cost
from crescendo.scaling.coefficients import Coefficients
from crescendo.scaling.nets import ScaledNet, scalable_nets, scale

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
DEPTH, WIDTH, RESOLUTION = Coefficients(2, 1, 1), Coefficients(1, 2**0.5, 1), Coefficients(1, 1, 2**0.5)


def built(net: ScaledNet) -> nn.Module:
    return shapes_of(net.build, 1000, 3)


# Tan & Le 2019: the coefficients of the authors' code, and what they count.
@pytest.mark.parametrize(
    ("width", "depth", "parameters"),
    [
        (1.0, 1.1, 7_794_184),
        (1.1, 1.2, 9_109_994),
        (1.2, 1.4, 12_233_232),
        (1.4, 1.8, 19_341_616),
        (1.6, 2.2, 30_389_784),
        (1.8, 2.6, 43_040_704),
        (2.0, 3.1, 66_347_960),
    ],
)
def test_the_published_pairs_have_the_parameters_of_b1_to_b7(width, depth, parameters):
    assert count_parameters(built(ScaledNet("efficientnet_b0", depth, width, 224))) == parameters


def test_the_formula_at_phi_1_is_b2():
    net = scale("efficientnet_b0", Coefficients(), 1)
    assert (net.depth, net.width, net.resolution) == (1.2, 1.1, 256)  # 257.6 to a multiple of 8
    assert count_parameters(built(net)) == 9_109_994
    assert scale("efficientnet_b0", Coefficients(), 1, multiple_of=1).resolution == 258


def test_the_formula_at_phi_2_is_b3_but_for_its_last_convolution():
    """1280 * 1.1^2 is 1548.8, so 1552 filters, and 1280 * 1.2 is 1536: 384 weights, a gain, a shift and a
    row of the head for each of 16.
    """
    net = built(scale("efficientnet_b0", Coefficients(), 2))
    b3 = shapes_of(partial(create_model, "efficientnet_b3"))
    for part in ("stem", "stages"):
        ours, theirs = net.get_submodule(part), b3.get_submodule(part)
        assert [p.shape for p in ours.parameters()] == [p.shape for p in theirs.parameters()]
    assert count_parameters(net) == 12_233_232 + 16 * (384 + 2 + 1000)


# Table 3: MobileNetV2 1.2B, 1.1B, 1.2B. ResNet-50: 16.2B, 14.7B, 16.4B, where ours for depth and width are
# 14.57G and 16.12G, the other way round.
@pytest.mark.parametrize(
    ("name", "coefficients", "billions"),
    [
        ("mobilenet_v2", DEPTH, 1.22),
        ("mobilenet_v2", WIDTH, 1.14),
        ("mobilenet_v2", RESOLUTION, 1.20),
        ("resnet50", DEPTH, 14.57),
        ("resnet50", WIDTH, 16.12),
        ("resnet50", RESOLUTION, 16.35),
    ],
)
def test_one_axis_at_phi_2_costs_what_table_3_says(name, coefficients, billions):
    net = scale(name, coefficients, 2)
    assert count_macs(built(net), net.resolution) / 1e9 == pytest.approx(billions, abs=0.005)


def macs_by_hooks(net: nn.Module, images: Tensor) -> int:
    """Independent of torch's formulas: outputs times what each of them is a sum of."""
    total = 0

    def count(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            height, width = layer.kernel_size
            total += output.numel() * height * width * layer.in_channels // layer.groups
        elif isinstance(layer, nn.Linear):
            total += output.numel() * layer.in_features

    for layer in net.modules():
        layer.register_forward_hook(count)
    with torch.no_grad():
        net.eval()(images)
    return total


@pytest.mark.parametrize(
    ("name", "phi"),
    [
        ("resnet20", 0.0),
        ("resnet20", 1.5),
        ("resnet18", 0.7),
        ("resnext50_32x4d", 0.7),
        ("se_resnet50", 0.7),
        ("vgg11_bn", 0.7),
        ("vgg11_bn", 1.5),
        ("mobilenet_v2", 0.7),
        ("efficientnet_b0", 0.0),
        ("efficientnet_b0", 1.5),
        ("efficientnet_lite0", 1.5),
        ("efficientnet_v2_b0", 0.7),
        pytest.param("efficientnet_b0", 3.0, marks=pytest.mark.slow),
        pytest.param("se_resnext50_32x4d", 1.5, marks=pytest.mark.slow),
        pytest.param("resnet50", 3.0, marks=pytest.mark.slow),
    ],
)
def test_the_costs_are_those_of_the_net_that_is_built(name, phi):
    net = scale(name, Coefficients(), phi, resolution=64)
    promised = cost(net, Training(SGD, batch_size=2))
    with torch.device("meta"):
        real, images = net.build(1000, 3), torch.empty(1, 3, net.resolution, net.resolution)
    assert promised.macs == pytest.approx(macs_by_hooks(real, images), rel=0.01)
    assert promised.parameters == sum(parameter.numel() for parameter in real.parameters())


@pytest.mark.parametrize(
    ("name", "factors", "depths", "width"),
    [
        ("resnet50", (1.2, 1.1), [4, 5, 8, 4], 72),
        ("resnext50_32x4d", (1.0, 1.1), [3, 4, 6, 3], 72),
        ("vgg16", (1.2, 1.1), [3, 3, 4, 4, 4], 72),
        ("mobilenet_v2", (1.2, 1.1), [2, 3, 4, 5, 4, 4, 2], 32),  # 35.2, of which 32 is more than 90%
        ("efficientnet_b0", (1.2, 1.4), [2, 3, 3, 4, 4, 5, 2], 48),  # 44.8 goes up
        ("efficientnet_v2_b0", (1.2, 1.1), [2, 3, 3, 4, 6, 10], 32),
        ("resnet20", (1.2, 1.5), [4, 4, 4], 24),
    ],
)
def test_depths_are_rounded_up_and_widths_to_multiples_of_8(name, factors, depths, width):
    net = built(ScaledNet(name, *factors, 224))
    stages = net.stages
    if name == "vgg16":
        found = [sum(isinstance(layer, nn.Conv2d) for layer in stage) for stage in stages]
    else:
        found = [len(stage) for stage in stages]
    assert found == depths
    first = next(layer for layer in net.modules() if isinstance(layer, nn.Conv2d))
    assert first.out_channels == width


def test_every_family_that_can_be_scaled_is():
    names = scalable_nets()
    assert len(names) == 53
    for name in ("lenet5", "lenet5_modern", "alexnet", "alexnet_owt", "googlenet", "googlenet_bn"):
        assert name not in names


@pytest.mark.parametrize(
    ("name", "coefficients", "message"),
    [
        ("alexnet", Coefficients(), "alexnet has no depth to scale. Nets that have: efficientnet_b0"),
        ("googlenet", WIDTH, "googlenet has no width to scale"),
        ("lenet5", RESOLUTION, "lenet5 takes 32 px at most: it has no resolution to scale. Nets that have:"),
        ("resnt50", Coefficients(), "There is no net 'resnt50'. Did you mean resnet50"),
    ],
)
def test_what_cannot_be_scaled_is_refused(name, coefficients, message):
    with pytest.raises(UserError) as refusal:
        scale(name, coefficients, 1)
    assert message in str(refusal.value)


def test_a_net_without_depth_and_width_still_takes_larger_images():
    assert scale("alexnet", RESOLUTION, 2).resolution == 448


def test_phi_0_is_the_net_itself():
    assert scale("resnet18", Coefficients(), 0, resolution=99) == ScaledNet("resnet18", 1, 1, 99)
