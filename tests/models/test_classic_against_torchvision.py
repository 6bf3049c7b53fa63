"""AlexNet, VGG and GoogLeNet compute what torchvision's nets compute, from the same weights.

State is copied in registration order, which is how weights are loaded.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision import models as torchvision_models
from torchvision.models import vgg as torchvision_vgg

from crescendo.models import create_model
from crescendo.models.layers import WithAuxiliary, set_dropout

VGGS = ["vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"]


def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """Built and cast without storage: two VGGs in float64 take long enough to fill."""
    with torch.device("meta"):
        net = build().double()
    return net.to_empty(device="cpu")


def randomise(net: nn.Module) -> None:
    """Weights that keep a signal's size, and batch norm statistics that matter."""
    torch.manual_seed(0)
    for key, tensor in net.state_dict().items():
        if tensor.ndim > 1:
            tensor.uniform_(-1, 1).mul_((6 / tensor[0].numel()) ** 0.5)
        elif key.endswith("num_batches_tracked"):
            tensor.zero_()
        elif key.endswith(("running_var", "weight")):
            tensor.uniform_(0.5, 1.5)
        else:
            tensor.uniform_(-0.1, 0.1)


def copy_in_order(source: nn.Module, target: nn.Module) -> None:
    for theirs, ours in zip(source.state_dict().values(), target.state_dict().values(), strict=True):
        assert theirs.shape == ours.shape
        ours.copy_(theirs)


def assert_same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9 * expected.abs().max().item())


def outputs(net: nn.Module, x: Tensor) -> list[Tensor]:
    output = net(x)
    if isinstance(output, WithAuxiliary):
        return [output.logits, *output.auxiliary]
    if isinstance(output, tuple):
        return [output.logits, output.aux_logits1, output.aux_logits2]
    return [output]


def assert_computes_the_same(net: nn.Module, reference: nn.Module, resolution: int) -> None:
    """Logits in eval mode; logits, gradients and batch norm statistics in train mode, no dropout."""
    randomise(reference)
    copy_in_order(reference, net)
    set_dropout(net, 0.0)
    for layer in (*net.modules(), *reference.modules()):
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    x = torch.randn(2, 3, resolution, resolution, dtype=torch.float64)
    with torch.no_grad():
        expected = reference.eval()(x)
        assert expected.std() > 0
        assert_same(net.eval()(x), expected)

    directions = torch.randn(3, *expected.shape, dtype=torch.float64)
    for either in (net, reference):
        logits = outputs(either.train(), x)
        sum((each * along).sum() for each, along in zip(logits, directions, strict=False)).backward()
    for ours, theirs in zip(net.parameters(), reference.parameters(), strict=True):
        assert_same(ours.grad, theirs.grad)
    for ours, theirs in zip(net.buffers(), reference.buffers(), strict=False):
        assert_same(ours.double(), theirs.double())


@pytest.mark.parametrize("name", [*VGGS, "alexnet_owt"])
def test_state_has_torchvisions_order_and_shapes(name):
    with torch.device("meta"):
        ours, theirs = create_model(name), torchvision_models.get_model(name.removesuffix("_owt"))
    shapes = [[tuple(value.shape) for value in net.state_dict().values()] for net in (ours, theirs)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", VGGS)
def test_vgg_at_an_eighth_of_its_width(name):
    column = {"11": "A", "13": "B", "16": "D", "19": "E"}[name[3:5]]
    rows = [row if row == "M" else row // 8 for row in torchvision_vgg.cfgs[column]]

    def build_reference() -> nn.Module:
        features = torchvision_vgg.make_layers(rows, batch_norm=name.endswith("_bn"))
        reference = torchvision_vgg.VGG(features, init_weights=False)
        for index, (inputs, width) in {0: (64 * 49, 512), 3: (512, 512), 6: (512, 10)}.items():
            reference.classifier[index] = nn.Linear(inputs, width)
        return reference

    net = on_meta(lambda: create_model(name, num_classes=10, width=1 / 8))
    assert_computes_the_same(net, on_meta(build_reference), resolution=64)


def test_googlenet_bn():
    def build_reference() -> nn.Module:
        return torchvision_models.googlenet(
            num_classes=10, aux_logits=True, transform_input=False, init_weights=False
        )

    net = on_meta(lambda: create_model("googlenet_bn", num_classes=10))
    assert_computes_the_same(net, on_meta(build_reference), resolution=81)


def test_alexnet_owt_with_small_hidden_layers():
    def shrink(head: nn.Sequential) -> None:
        for index, (inputs, width) in {1: (256 * 36, 64), 4: (64, 64), 6: (64, 10)}.items():
            assert isinstance(head[index], nn.Linear)
            head[index] = nn.Linear(inputs, width, dtype=torch.float64)

    with torch.device("meta"):
        net, reference = create_model("alexnet_owt").double(), torchvision_models.alexnet().double()
        shrink(net.head)
        shrink(reference.classifier)
    assert_computes_the_same(net.to_empty(device="cpu"), reference.to_empty(device="cpu"), resolution=80)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*VGGS, "alexnet_owt"])
def test_vgg_and_alexnet_at_their_own_width(name):
    net = on_meta(lambda: create_model(name))
    reference = on_meta(lambda: torchvision_models.get_model(name.removesuffix("_owt")))
    assert_computes_the_same(net, reference, resolution=96)
