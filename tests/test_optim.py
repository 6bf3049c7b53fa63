import math
from functools import partial

import pytest
import torch
from torch import nn

from crescendo.errors import UserError
from crescendo.models import create_model
from crescendo.optim import (
    Constant,
    Cosine,
    Exponential,
    OneCycle,
    Step,
    make_optimizer,
    parameter_groups,
)


def factors(schedule, epochs, total):
    return [schedule.factor(epoch, total) for epoch in epochs]


@pytest.mark.parametrize(
    ("schedule", "epochs", "expected"),
    [
        (Constant(), [0, 5, 10], [1, 1, 1]),
        (Constant(warmup_epochs=2), [0, 0.5, 1, 2, 10], [0, 0.25, 0.5, 1, 1]),
        (Cosine(), [0, 5, 10, 11], [1, 0.5, 0, 0]),
        (Cosine(), [2.5, 7.5], [0.853553, 0.146447]),
        (Cosine(final=0.2), [0, 5, 10], [1, 0.6, 0.2]),
        (Cosine(warmup_epochs=2), [0, 1, 2, 6, 10], [0, 0.5, 1, 0.5, 0]),
        (Cosine(warmup_epochs=2, hold=0.6), [0, 1, 2, 5, 6, 8, 10], [0, 0.5, 1, 1, 1, 0.5, 0]),
        (Cosine(warmup_epochs=2, hold=0.1), [1, 2, 6, 10], [0.5, 1, 0.5, 0]),
        (OneCycle(peak=0.4, start=0.2, final=0.1), [0, 2, 4, 7, 10], [0.2, 0.6, 1, 0.55, 0.1]),
        (OneCycle(), [0, 3, 10, 11], [0.04, 1, 0, 0]),
        (Step([0.5, 0.75]), [0, 4.99, 5, 7.49, 7.5, 10], [1, 1, 0.1, 0.1, 0.01, 0.01]),
        (Step([0.5], gamma=0.5, warmup_epochs=4), [0, 2, 4, 5], [0, 0.5, 1, 0.5]),
        (Step([]), [0, 10], [1, 1]),
        (Step([0.5, 0.75], gamma=[0.4, 0.5]), [0, 4.99, 5, 7.5, 10], [1, 1, 0.4, 0.2, 0.2]),
        (Exponential(0.5), [0, 0.99, 1, 2.5, 3], [1, 1, 0.5, 0.25, 0.125]),
        (Exponential(0.97, 2.4, 5), [0, 2.5, 4.99, 5, 7.19, 7.2], [0, 0.5, 0.998, 0.9409, 0.9409, 0.912673]),
        (Exponential(0.96, every_epochs=8), [0, 7.99, 8, 10], [1, 1, 0.96, 0.96]),
    ],
)
def test_factors_of_ten_epochs(schedule, epochs, expected):
    assert factors(schedule, epochs, 10) == pytest.approx(expected, abs=1e-6)


def test_a_warm_up_as_long_as_the_training_divides_by_nothing():
    assert factors(Cosine(warmup_epochs=4), [0, 2, 4], 4) == pytest.approx([0, 0.5, 1])
    assert all(math.isfinite(value) for value in factors(Cosine(warmup_epochs=4), [3.999, 4, 5], 4))


@pytest.mark.parametrize("hold", [-0.1, 1.0])
def test_a_hold_without_an_end_is_refused(hold):
    with pytest.raises(UserError, match=rf"lr_schedule\.hold={hold:g}"):
        Cosine(hold=hold)


@pytest.mark.parametrize("peak", [0, 1, -0.1, 2])
def test_a_peak_outside_of_the_training_is_refused(peak):
    with pytest.raises(UserError, match=f"lr_schedule.peak={peak}"):
        OneCycle(peak=peak)


@pytest.mark.parametrize("milestones", [[0.75, 0.5], [0.5, 0.5], [0, 0.5], [30, 60]])
def test_milestones_that_are_no_rising_shares_are_refused(milestones):
    with pytest.raises(UserError, match=r"lr_schedule\.milestones=.*such as \[0\.5, 0\.75\]"):
        Step(milestones)


@pytest.mark.parametrize("gamma", [[0.1], [0.1, 0.1, 0.1], []])
def test_rates_that_do_not_match_the_milestones_are_refused(gamma):
    with pytest.raises(UserError, match=r"lr_schedule\.gamma=.*one for each of lr_schedule\.milestones"):
        Step([0.5, 0.75], gamma=gamma)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"gamma": 0}, "gamma=0"),
        ({"gamma": 1.1}, "gamma=1.1"),
        ({"gamma": 0.9, "every_epochs": 0}, "every_epochs=0"),
    ],
)
def test_a_decay_that_cannot_be_is_refused(settings, named):
    with pytest.raises(UserError, match=rf"lr_schedule\.{named}"):
        Exponential(**settings)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop])
def test_on_a_cpu_torch_chooses(optimizer):
    made = make_optimizer(partial(optimizer, lr=0.1), nn.Linear(2, 2))
    assert all(not group.get("fused") for group in made.param_groups)
    assert all(group["foreach"] is None for group in made.param_groups)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_it_is_fused_where_torch_has_that_and_nothing_else_is_said():
    net = nn.Linear(2, 2).cuda()

    def fused(optimizer, **settings):
        made = make_optimizer(partial(optimizer, lr=0.1, **settings), net)
        return made.param_groups[0].get("fused")

    assert fused(torch.optim.SGD) is True
    assert fused(torch.optim.AdamW) is True
    assert fused(torch.optim.SGD, fused=False) is False
    assert fused(torch.optim.RMSprop) is None
    assert make_optimizer(partial(torch.optim.SGD, lr=0.1), net, may_fuse=False).defaults["fused"] is None


class Norms(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.downsample = nn.Sequential(nn.Conv2d(4, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.layer_norm = nn.LayerNorm(8)
        self.group_norm = nn.GroupNorm(2, 8)
        self.gain = nn.Parameter(nn.init.ones_(nn.Linear(1, 1).bias.detach().squeeze()))
        self.head = nn.Linear(8, 2)
        self.frozen = nn.Linear(8, 2).requires_grad_(False)


def test_weights_decay_and_norms_biases_and_gains_do_not():
    net = Norms()
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    decayed, others = ([names[id(p)] for p in group["params"]] for group in parameter_groups(net))
    assert decayed == ["stem.weight", "downsample.0.weight", "head.weight"]
    assert sorted(others) == [
        "downsample.1.bias",
        "downsample.1.weight",
        "gain",
        "group_norm.bias",
        "group_norm.weight",
        "head.bias",
        "layer_norm.bias",
        "layer_norm.weight",
        "stem.bias",
    ]


def test_only_the_second_group_sets_its_decay():
    decayed, others = parameter_groups(Norms())
    assert "weight_decay" not in decayed
    assert others["weight_decay"] == 0


def test_every_parameter_is_in_one_group_and_an_empty_group_is_left_out():
    net = create_model("resnet20")
    groups = parameter_groups(net)
    identities = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(identities) == sorted(id(parameter) for parameter in net.parameters())
    assert [len(group["params"]) for group in groups] == [20, 39]  # 19 convolutions, head; 19 norms, bias
    assert len(parameter_groups(nn.Linear(2, 2, bias=False))) == 1
