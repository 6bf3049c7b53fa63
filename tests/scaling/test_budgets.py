"""The largest phi within limits."""

from functools import partial

import pytest
import torch

from crescendo.errors import UserError
from crescendo.scaling.budgets import (
    BYTES,
    COUNTS,
    STEPS,
    Limits,
    Training,
    cost,
    largest_phi,
    parse_quantity,
)
from crescendo.scaling.coefficients import Coefficients
from crescendo.scaling.nets import scale

SMALL = Training(partial(torch.optim.SGD, lr=0.1, momentum=0.9), batch_size=2, num_classes=10)


@pytest.mark.parametrize(
    ("text", "units", "expected"),
    [
        ("1G", COUNTS, 10**9),
        ("1.5M", COUNTS, 1_500_000),
        ("12 k", COUNTS, 12_000),
        ("5288548", COUNTS, 5_288_548),
        ("8GB", BYTES, 8 * 10**9),
        ("0.5GiB", BYTES, 2**29),
    ],
)
def test_quantities(text, units, expected):
    assert parse_quantity("--max", text, units) == expected


@pytest.mark.parametrize(
    ("text", "units"),
    [("1GB", COUNTS), ("8", BYTES), ("8G", BYTES), ("0M", COUNTS), ("-1M", COUNTS), ("much", BYTES)],
)
def test_other_words_are_refused(text, units):
    with pytest.raises(UserError, match=r"^--max .*: must be a number above 0 and a unit: "):
        parse_quantity("--max", text, units)


@pytest.mark.parametrize(
    ("limits", "binding"),
    [
        pytest.param(Limits(memory=12 * 10**6), "memory", marks=pytest.mark.slow),
        (Limits(macs=10**9, memory=10**9, parameters=500_000), "parameters"),
        (Limits(macs=80 * 10**6, memory=10**9, parameters=10**9), "macs"),
        (Limits(macs=10**9, memory=12 * 10**6, parameters=10**9), "memory"),
    ],
)
def test_the_phi_found_fits_and_the_next_does_not(limits, binding):
    fit = largest_phi("resnet20", Coefficients(), limits, SMALL)
    assert fit.binding.limit == binding

    def excesses(phi: float) -> list[str]:
        costs = cost(scale("resnet20", Coefficients(), phi), SMALL)
        spent = {"macs": costs.macs, "memory": costs.memory.peak, "parameters": costs.parameters}
        return [name for name, value in spent.items() if (getattr(limits, name) or 10**18) < value]

    assert 0 < fit.phi < 5
    assert excesses(fit.phi) == []
    assert binding in excesses(fit.phi + 1 / STEPS)
    assert fit.cost == cost(fit.net, SMALL)
    assert fit.binding.needed > fit.binding.allowed


def test_a_budget_below_the_net_is_refused_with_its_costs():
    with pytest.raises(UserError) as refusal:
        largest_phi("efficientnet_b0", Coefficients(), Limits(macs=100 * 10**6), Training(SMALL.optimizer))
    assert str(refusal.value).startswith(
        "100M MACs are less than efficientnet_b0 itself takes: at 224 px it has"
    )
    for word in ("386M MACs", "5.29M parameters", "2.89GB to train on batches of 32"):
        assert word in str(refusal.value)


def test_a_limit_that_never_binds_is_refused():
    with pytest.raises(UserError, match="resnet20 keeps these limits up to phi=10"):
        largest_phi("resnet20", Coefficients(1, 1, 2**0.5), Limits(parameters=10**6), SMALL)


def test_a_batch_too_small_for_batch_norm_is_named():
    with pytest.raises(UserError, match="resnet18 cannot train on batches of 1 at 32 px"):
        cost(scale("resnet18", Coefficients(), 0, resolution=32), Training(SMALL.optimizer, batch_size=1))
