import pytest
from torch import nn

from crescendo.curriculum.schedule import Ramp
from crescendo.errors import UserError
from crescendo.models.layers import Dropout, DropPath
from crescendo.regularization import Regularization, apply_to_net

KNOBS = {"dropout", "drop_path", "randaugment", "random_erasing", "mixup", "cutmix", "label_smoothing"}


def net_with_both():
    return nn.ModuleList([DropPath(0.2, share=0.5), DropPath(0.2, share=1.0), Dropout(0.4)])


def test_everything_is_off_unless_said():
    assert Regularization().ramps(net_with_both()) == dict.fromkeys(KNOBS, Ramp(0, 0))


def test_a_knob_is_a_number_a_range_or_published():
    regularization = Regularization(
        dropout="published", drop_path={"start": 0.1, "end": 0.3}, mixup=0.2, cutmix=Ramp(0, 1)
    )
    ramps = regularization.ramps(net_with_both())
    assert ramps["dropout"] == Ramp(0.4, 0.4)
    assert ramps["drop_path"] == Ramp(0.1, 0.3)
    assert ramps["mixup"] == Ramp(0.2, 0.2)
    assert ramps["cutmix"] == Ramp(0, 1)


def test_published_is_what_the_net_was_built_with_even_after_a_stage():
    net = net_with_both()
    apply_to_net(net, {"dropout": 0.1, "drop_path": 0.1})
    ramps = Regularization(dropout="published", drop_path="published").ramps(net)
    assert (ramps["dropout"], ramps["drop_path"]) == (Ramp(0.4, 0.4), Ramp(0.2, 0.2))


def test_a_stage_sets_the_rates_of_the_net():
    net = net_with_both()
    apply_to_net(net, {"dropout": 0.1, "drop_path": 0.3, "mixup": 0.9})
    assert [layer.probability.item() for layer in net] == pytest.approx([0.15, 0.3, 0.1])
    apply_to_net(net, {})
    assert [layer.active for layer in net] == [False, False, False]


@pytest.mark.parametrize(
    ("net", "strengths", "expected"),
    [
        (net_with_both(), {"dropout": 0.1, "drop_path": 0.1}, []),
        (nn.ReLU(), {"dropout": 0.1, "drop_path": {"start": 0, "end": 0.1}}, ["dropout", "drop_path"]),
        (nn.ReLU(), {"dropout": {"start": 0.1, "end": 0}}, ["dropout"]),
        (nn.ReLU(), {"dropout": "published", "drop_path": 0}, []),
        (nn.ReLU(), {"mixup": 0.2, "random_erasing": 0.2}, []),
        (Dropout(0.5), {"dropout": 0.1, "drop_path": 0.1}, ["drop_path"]),
    ],
)
def test_knobs_without_an_owner_are_named_and_off(net, strengths, expected):
    regularization = Regularization(**strengths)
    assert regularization.not_applied(net) == expected
    ramps = regularization.ramps(net)
    assert all(ramps[knob] == Ramp(0, 0) for knob in expected)


@pytest.mark.parametrize("knob", ["dropout", "drop_path", "random_erasing", "label_smoothing"])
@pytest.mark.parametrize(
    "strength", [-0.1, 1, 1.5, float("nan"), {"start": 0, "end": 1}, {"start": -0.1, "end": 0.5}]
)
def test_a_rate_outside_its_bounds_is_refused(knob, strength):
    with pytest.raises(UserError, match=rf"regularization\.{knob}=.*at least 0 and below 1"):
        Regularization(**{knob: strength})


@pytest.mark.parametrize("knob", ["mixup", "cutmix"])
@pytest.mark.parametrize("strength", [-0.1, float("nan"), float("inf")])
def test_an_alpha_outside_its_bounds_is_refused(knob, strength):
    with pytest.raises(UserError, match=rf"regularization\.{knob}="):
        Regularization(**{knob: strength})
    assert getattr(Regularization(**{knob: 1.5}), knob) == Ramp(1.5, 1.5)


def test_only_layers_have_published_strengths():
    with pytest.raises((TypeError, UserError)):
        Regularization(mixup="published")
