"""Timing in turns, and what the benchmark of fused stages makes of it."""

import pytest
import torch
from fused import TABLE_3, Result, heading, measure, row
from timing import TASKS, spread, step, time_in_turns
from torch import nn

CPU = torch.device("cpu")


def test_each_turn_begins_with_the_next_and_they_go_round_both_ways(monkeypatch):
    monkeypatch.setattr("gc.collect", lambda: 0)  # seconds, beside everything that tests have imported
    called = []
    steps = [lambda name=name: called.append(name) for name in "abc"]
    seconds = time_in_turns(steps, turns=6, device=CPU)
    assert "".join(called) == "abc" + "bca" + "cab" + "acb" + "bac" + "cba" + "abc"  # the first warms up
    assert [len(turn) for turn in seconds] == [3] * 6
    assert all(taken > 0 for turn in seconds for taken in turn)


def test_a_spread_is_the_median_and_the_quartiles():
    assert spread([4.0, 1.0, 3.0, 2.0, 5.0], 1) == "3.0 (1.5 to 4.5)"


def test_a_training_step_makes_gradients_and_takes_the_optimizers_step():
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.BatchNorm1d(4))
    before = net[1].weight.detach().clone()
    arguments = (net, torch.randn(3, 3, 2, 2), torch.arange(3))
    step("forward", *arguments)()
    assert not net.training
    assert net[1].weight.grad is None
    step("training step", *arguments)()
    assert net.training
    assert net[1].weight.grad is not None
    assert torch.equal(net[1].weight, before)
    step("training step", *arguments, optimizer=torch.optim.SGD(net.parameters(), lr=1.0))()
    assert not torch.equal(net[1].weight, before)


def test_bf16_is_that_of_the_layers_and_not_of_the_weights():
    seen = []
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    net[1].register_forward_hook(lambda layer, arguments, output: seen.append(output.dtype))
    for precision in (torch.float32, torch.bfloat16):
        for task in TASKS:
            step(task, net, torch.randn(3, 3, 2, 2), torch.arange(3), precision=precision)()
    assert seen == [torch.float32] * 2 + [torch.bfloat16] * 2
    assert net[1].weight.dtype == net[1].weight.grad.dtype == torch.float32


def test_a_row_has_medians_and_ratios_within_a_turn_beside_the_papers():
    mine = {"forward": [0.1, 0.2, 0.4], "training step": [0.5, 0.5, 0.5]}
    none = {"forward": [0.2, 0.2, 0.2], "training step": [1.0, 2.0, 3.0]}
    told = row(Result(3, 20_945_870, 9_648_314_752, mine, none), batch_size=64)
    forward = ["200.0 (100.0 to 400.0)", "320", "1.00 (0.50 to 2.00)"]  # 64 in .2 s; 2, 1 and a half
    training = ["500.0 (500.0 to 500.0)", "128", "4.00 (2.00 to 6.00)"]
    paper = ["20.0M", "7.5B", "1.38", "1.39"]  # 362/262, 216/155
    assert told == f"| {' | '.join(['3', '20.9M', '9.65G', *forward, *training, *paper])} |"
    assert heading().splitlines()[0].count("|") == told.count("|")


@pytest.mark.slow
def test_the_nets_of_the_table_are_measured():
    results = measure("efficientnet_b0", 32, 2, turns=2, device=CPU)
    assert [result.fused_stages for result in results] == list(TABLE_3) == [0, 3, 5, 7]
    assert [result.parameters for result in results] == [5_288_548, 5_622_338, 10_644_548, 29_535_976]
    assert all(len(result.seconds[task]) == 2 for result in results for task in TASKS)
    assert all(result.none == results[0].seconds for result in results)
