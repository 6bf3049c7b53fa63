"""TensorFlow's RMSProp, against its update written down in float64."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from crescendo.optim import make_optimizer
from crescendo.rmsprop import TensorFlowRMSprop

RATES = np.repeat([0.01, 0.004, 0.02, 0.001], 25)  # of 100 steps
MOMENTA = np.repeat([0.9, 0.9, 0.5, 0.99], 25)


def as_tensorflow(weight, gradients, eps, weight_decay):
    """ApplyRMSProp: ms += (g^2 - ms)(1 - rho); mom = mom * momentum + g lr / sqrt(ms + eps)."""
    ms, mom = np.ones_like(weight), np.zeros_like(weight)
    for gradient, lr, momentum in zip(gradients, RATES, MOMENTA, strict=True):
        g = gradient + weight_decay * weight
        ms += (g * g - ms) * (1 - 0.9)
        mom = mom * momentum + g * lr / np.sqrt(ms + eps)
        weight = weight - mom
    return weight


def trained(start, gradients, dtype, **settings):
    """The weights after 100 steps; half-way the optimizer goes through its state_dict."""
    parameters = [nn.Parameter(torch.tensor(values, dtype=dtype)) for values in start]

    def fresh():
        return TensorFlowRMSprop(parameters, lr=1.0, decay=0.9, **settings)

    optimizer = fresh()
    for step, (lr, momentum) in enumerate(zip(RATES, MOMENTA, strict=True)):
        if step == 50:
            state = optimizer.state_dict()
            optimizer = fresh()
            optimizer.load_state_dict(state)
        optimizer.param_groups[0] |= {"lr": lr, "momentum": momentum}
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = torch.tensor(gradient[step], dtype=dtype)
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


@pytest.mark.parametrize("foreach", [None, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize(("dtype", "closeness"), [(torch.float32, 1e-6), (torch.float64, 1e-13)])
def test_100_steps_are_those_of_tensorflow(dtype, closeness, weight_decay, foreach):
    rng = np.random.default_rng(0)
    shapes = [(3, 2), (4,)]
    start = [rng.normal(0, 0.1, shape).astype(np.float32).astype(np.float64) for shape in shapes]
    scales = 10 ** rng.uniform(-4, 0, (100, 1))  # small gradients meet eps
    gradients = [
        (rng.normal(0, 1, (100, *shape)) * scales.reshape(100, *[1] * len(shape))).astype(np.float32)
        for shape in shapes
    ]
    settings = {"eps": 1e-3, "weight_decay": weight_decay}
    ends = trained(start, gradients, dtype, foreach=foreach, **settings)
    for weight, gradient, end in zip(start, gradients, ends, strict=True):
        expected = as_tensorflow(weight, gradient.astype(np.float64), **settings)
        assert np.abs(expected - weight).max() > 0.05  # it went somewhere
        assert np.abs(end.double().numpy() - expected).max() < closeness


def test_the_first_step_by_hand():
    """square = .9 + .1 * 4 = 1.3; buffer = .1 * 2 / sqrt(1.3 + .14) = 1/6."""
    weight = nn.Parameter(torch.tensor([1.0]))
    optimizer = TensorFlowRMSprop([weight], lr=0.1, eps=0.14)
    weight.grad = torch.tensor([2.0])
    optimizer.step()
    assert weight.item() == pytest.approx(1 - 1 / 6, abs=1e-7)
    optimizer.param_groups[0]["lr"] = 0.0  # no new gradient counts, the old one's momentum goes on
    optimizer.step()
    assert weight.item() == pytest.approx(1 - 1 / 6 - 0.9 / 6, abs=1e-7)


def test_all_at_once_is_bit_for_bit_one_by_one():
    ends = []
    for foreach in (False, True):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
        factory = partial(TensorFlowRMSprop, lr=0.01, weight_decay=0.1, foreach=foreach)
        optimizer = make_optimizer(factory, net)
        for _ in range(5):
            optimizer.zero_grad()
            net(torch.randn(8, 3, 4, 4)).square().mean().backward()
            optimizer.step()
        ends.append([parameter.detach().clone() for parameter in net.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*ends, strict=True))


def test_what_has_no_gradient_stays():
    kept, moved = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = TensorFlowRMSprop([kept, moved], weight_decay=0.1)
    moved.grad = torch.ones(2)
    optimizer.step()
    assert torch.equal(kept.detach(), torch.ones(2))
    assert (moved < 1).all()
    assert kept not in optimizer.state


@pytest.mark.parametrize(
    ("name", "value"), [("lr", -1), ("eps", -1), ("weight_decay", -1), ("decay", 1), ("momentum", 1.5)]
)
def test_bad_values_are_named(name, value):
    with pytest.raises(ValueError, match=f"{name}={value}"):
        TensorFlowRMSprop([nn.Parameter(torch.ones(1))], **{name: value})
