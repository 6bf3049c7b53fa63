"""MobileNetV2 and the EfficientNets compute what torchvision's nets compute, from the same weights.

State is copied in registration order, which is how weights are loaded.
"""

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model

from crescendo.models import create_model
from crescendo.models.layers import set_drop_path, set_dropout

FAST = ["mobilenet_v2", "efficientnet_b0"]
DEEP = [*(f"efficientnet_b{size}" for size in range(1, 8)), *(f"efficientnet_v2_{size}" for size in "sml")]
NETS = [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in DEEP)]


def reference(name: str) -> nn.Module:
    """torchvision's net without dropout and, where it has one, stochastic depth, and without weights."""
    off = {"dropout": 0.0} | ({"stochastic_depth_prob": 0.0} if "efficientnet" in name else {})
    with torch.device("meta"):
        net = get_model(name, **off)
    return net.to_empty(device="cpu").double()


def randomise(net: nn.Module) -> None:
    """Weights that keep a signal's size, and batch norm statistics that matter."""
    generator = torch.Generator().manual_seed(0)
    for key, tensor in net.state_dict().items():
        if tensor.ndim > 1:
            tensor.normal_(std=(2 / tensor[0].numel()) ** 0.5, generator=generator)
        elif key.endswith("num_batches_tracked"):
            tensor.zero_()
        elif key.endswith(("running_var", "weight")):
            tensor.uniform_(0.5, 1.5, generator=generator)
        else:
            tensor.normal_(std=0.2, generator=generator)


def assert_same(actual: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * expected.abs().max().item())


@pytest.mark.parametrize("name", NETS)
def test_state_has_torchvisions_order_and_shapes(name):
    with torch.device("meta"):
        ours, theirs = create_model(name).state_dict(), get_model(name).state_dict()
    assert [(key.rpartition(".")[2], value.shape) for key, value in ours.items()] == [
        (key.rpartition(".")[2], value.shape) for key, value in theirs.items()
    ]


@pytest.mark.parametrize("name", NETS)
def test_logits_gradients_and_statistics_are_torchvisions(name):
    with torch.device("meta"):
        net = create_model(name)
    net, theirs = net.to_empty(device="cpu").double(), reference(name)
    randomise(theirs)
    pairs = zip(net.state_dict().values(), theirs.state_dict().values(), strict=True)
    for own, other in pairs:
        assert own.shape == other.shape
        own.copy_(other)

    x = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs.eval()(x)
        assert expected.std() > 0
        assert_same(net.eval()(x), expected)

    set_dropout(net, 0.0)
    set_drop_path(net, 0.0)
    for either in (net, theirs):
        nn.functional.cross_entropy(either.train()(x), torch.tensor([3, 5])).backward()
    for own, other in zip(net.parameters(), theirs.parameters(), strict=True):
        assert_same(own.grad, other.grad)
    own_buffers = [buffer for key, buffer in net.named_buffers() if not key.endswith("probability")]
    for own, other in zip(own_buffers, theirs.buffers(), strict=True):
        assert_same(own.double(), other.double())
