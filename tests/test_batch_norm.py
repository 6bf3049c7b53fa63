"""Running statistics: taken anew, and how far they move. Expected values by hand."""

import math

import pytest
import torch
from torch import nn

from crescendo import batch_norm


def net():
    layers = nn.Sequential(nn.BatchNorm2d(2), nn.Dropout(0.5))
    layers[0].running_mean.fill_(7.0)
    return layers


def test_refreshed_statistics_are_the_mean_of_the_batches():
    layers = net().train()
    first = torch.tensor([[[[1.0]], [[0.0]]], [[[3.0]], [[0.0]]]])  # means 2 and 0, variances 2 and 0
    second = torch.tensor([[[[4.0]], [[6.0]]], [[[4.0]], [[2.0]]]])  # means 4 and 4, variances 0 and 8
    assert batch_norm.refresh(layers, [first, second]) == 4
    assert layers[0].running_mean.tolist() == [3.0, 2.0]
    assert layers[0].running_var.tolist() == pytest.approx([1.0, 4.0])
    assert layers[0].momentum == 0.1
    assert not layers[0].training


def test_statistics_are_put_back():
    layers = net()
    before = batch_norm.copy_of(layers)
    assert list(before) == ["0.running_mean", "0.running_var", "0.num_batches_tracked"]
    batch_norm.refresh(layers, [torch.randn(4, 2, 3, 3)])
    assert layers[0].running_mean[0] != 7
    batch_norm.put(layers, before)
    assert layers[0].running_mean.tolist() == [7.0, 7.0]
    assert layers[0].num_batches_tracked == 0


def test_drift_counts_deviations_and_logarithms():
    def statistics(means, variances):
        return {"a.running_mean": torch.tensor(means), "a.running_var": torch.tensor(variances)}

    before = statistics([0.0, 1.0], [4.0, 1.0])
    assert batch_norm.drift(before, before) == (0, 0)
    mean, variance = batch_norm.drift(before, statistics([1.0, 0.0], [8.0, 0.5]))
    assert mean == pytest.approx((0.5 + 1) / 2, rel=1e-4)
    assert variance == pytest.approx(math.log(2), rel=1e-4)
