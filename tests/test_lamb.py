"""LAMB as its algorithm is written, by the package that computes it, and without that package."""

import sys
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import crescendo
from crescendo.config import validate
from crescendo.errors import UserError
from crescendo.optim import make_optimizer
from crescendo.targets import check_arguments

lamb = pytest.importorskip("crescendo.lamb")


def test_the_first_step_by_hand():
    """Both gradients give m / sqrt(v) = .1 / sqrt(.001), so an update of equal parts, 5 long."""
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = lamb.LAMB([weight], lr=0.1)
    weight.grad = torch.tensor([0.5, 2.0])
    optimizer.step()
    assert weight.tolist() == pytest.approx([3 - 0.5 / 2**0.5, 4 - 0.5 / 2**0.5], abs=1e-5)


@pytest.mark.parametrize("deviation", [0.1, 20])
def test_steps_are_those_of_the_algorithm(deviation):
    """u = m / (sqrt(v) + eps) + decay w; w -= lr |w| u / |u|. Also of weights that are long."""
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(0, deviation, (3, 4)), rng.normal(0, 1, (20, 3, 4))
    w, m, v = start.copy(), np.zeros((3, 4)), np.zeros((3, 4))
    weight = nn.Parameter(torch.tensor(start))
    optimizer = lamb.LAMB([weight], lr=0.01, eps=1e-6, weight_decay=0.5)
    for g in gradients:
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        u = m / (np.sqrt(v) + 1e-6) + 0.5 * w
        w -= 0.01 * np.linalg.norm(w) / (np.linalg.norm(u) + 1e-6) * u
        weight.grad = torch.tensor(g)
        optimizer.step()
    assert weight.detach().numpy() == pytest.approx(w, abs=1e-9)


def test_it_goes_on_from_a_checkpoint(tmp_path):
    def trained(steps, state=None, net=None):
        torch.manual_seed(0)
        net = net or nn.Linear(3, 2)
        optimizer = make_optimizer(partial(lamb.LAMB, lr=0.01, weight_decay=0.1), net)
        if state is not None:
            torch.save(state, tmp_path / "state.pt")
            optimizer.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        for step in steps:
            optimizer.zero_grad()
            net(torch.full((1, 3), 1.0 + step)).square().sum().backward()
            optimizer.step()
        return net, optimizer.state_dict()

    whole, _ = trained(range(6))
    half, state = trained(range(3))
    resumed, _ = trained(range(3, 6), state, half)
    assert all(torch.equal(*pair) for pair in zip(whole.parameters(), resumed.parameters(), strict=True))


def check(config):
    validate(config)
    check_arguments(config)


def test_a_misspelt_option_is_found(configuration):
    with pytest.raises(UserError, match=r"optimizer\.beta is not an argument.*Did you mean betas"):
        check(configuration("optimizer=lamb", "+optimizer.beta=0.9"))


def test_without_its_package_the_extra_is_named(configuration, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    monkeypatch.delitem(sys.modules, "crescendo.lamb")
    monkeypatch.delattr(crescendo, "lamb")
    with pytest.raises(UserError, match=r'pip install "crescendo\[lamb\]"'):
        check(configuration("optimizer=lamb"))
