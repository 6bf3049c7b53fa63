"""A loss that is not finite ends the run with what is needed to understand it, or is left out."""

import json
import math

import pytest
import torch
from commands import REPOSITORY, command, only_run, train
from torch import nn
from whole_runs import TRAINING, assert_same_end

from crescendo.data.sampler import TrainingSampler
from crescendo.nonfinite import MOST_SKIPS, UserError, Window, Windows, all_finite


def poisoned(batch, *overrides, cwd):
    return command(str(REPOSITORY / "tests" / "poisoned.py"), str(batch), *overrides, cwd=cwd)


def weights(run, name="last.ckpt"):
    return torch.load(run / "checkpoints" / name, weights_only=True)["state_dict"].values()


def test_the_run_stops_before_it_saves_what_is_not_finite(tmp_path):
    stopped = poisoned(2, *TRAINING, "callbacks.checkpoint.every_n_steps=null", cwd=tmp_path)
    assert stopped.returncode == 2
    assert "not finite within epoch 2, batches 2 to 4, which end at step 8" in stopped.stderr
    assert "on_nonfinite=skip" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    run = only_run(tmp_path)
    assert json.loads((run / "summary.json").read_text())["status"] == "failed"
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 4
    assert all(tensor.isfinite().all() for tensor in checkpoint["state_dict"].values())
    (entry,) = json.loads((run / "nonfinite.json").read_text())
    assert entry["window"] == {"epoch": 1, "first": 1, "last": 3, "step": 8}
    drawn = TrainingSampler(144, 32, curriculum=None, seed=0).batches(1)[1:4]
    assert entry["indices"] == drawn.flatten().tolist()


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_run_goes_on_without_those_draws(tmp_path, devices):
    overrides = (*TRAINING, "callbacks.checkpoint.every_n_steps=null", f"trainer.devices={devices}")
    one, two = tmp_path / "at once", tmp_path / "later"
    one.mkdir()
    two.mkdir()
    at_once = poisoned(2, *overrides, "on_nonfinite=skip", cwd=one)
    assert at_once.returncode == 0, at_once.stderr
    run = only_run(one)
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["status"], summary["skipped_windows"]) == ("finished", 1)
    assert all(tensor.isfinite().all() for tensor in weights(run))
    assert poisoned(2, *overrides, cwd=two).returncode == 2
    later = poisoned(2, f"resume={only_run(two)}", "on_nonfinite=skip", cwd=two)
    assert later.returncode == 0, later.stderr
    assert_same_end(only_run(two), run)


def test_a_training_that_diverges_is_not_skipped_for_ever(tmp_path):
    run = train(*TRAINING, "optimizer.lr=1e20", "on_nonfinite=skip", cwd=tmp_path)
    assert run.returncode == 2
    assert "more than 10 windows" in run.stderr
    assert "skipping does not help" in run.stderr


def test_a_window_is_met_once_and_left_out_when_asked(tmp_path):
    window = Window(epoch=1, first=2, last=5, step=9)
    windows = Windows(tmp_path)
    windows.met(window, [3, 1])
    windows.met(window, [3, 1])
    assert windows.skipped == []
    windows.skip_all()
    assert Windows(tmp_path).skipped == [window]
    assert [(1, batch) in window for batch in (1, 2, 5, 6)] == [False, True, True, False]
    assert (2, 3) not in window
    for step in range(MOST_SKIPS):
        windows.met(Window(2, step, step, step), [])
    with pytest.raises(UserError, match="more than 10 windows"):
        windows.skip_all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_one_number_among_weights_statistics_and_others_is_seen(value):
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    assert all_finite(net, torch.ones(2))
    assert not all_finite(net, torch.tensor([1.0, value]))
    net[1].running_var[1] = value
    assert not all_finite(net)
