"""Statistics of batch norm that are validated and saved, and the training that goes on without them."""

import csv
import json
import signal
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from commands import REPOSITORY, TINY, command, only_run, train
from torch import nn
from whole_runs import TRAINING, assert_same_end

from crescendo import batch_norm
from crescendo.validation import StatisticsDrift

NET = ("model=resnet20", "model.width=4", "curriculum.resolution.start=16")
REFRESH = ("bn_refresh=2", "validate_stage=true")
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def checkpoint(run, name):
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


def rows(run):
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_refresh_changes_what_is_validated_and_not_what_is_trained(uninterrupted):
    plain = uninterrupted(*TRAINING, *NET)
    refreshed = uninterrupted(*TRAINING, *NET, *REFRESH)
    with_workers = uninterrupted(*TRAINING, *NET, *REFRESH, "data.num_workers=2")
    theirs, mine, others = (checkpoint(run, "last") for run in (plain, refreshed, with_workers))
    for part in ("current_model_state", "optimizer_states", "averaging_state"):
        torch.testing.assert_close(mine[part], theirs[part], rtol=0, atol=0)
    torch.testing.assert_close(mine["state_dict"], others["state_dict"], rtol=0, atol=0)
    for name, value in mine["state_dict"].items():
        if name.endswith(STATISTICS):
            assert torch.equal(mine["running_statistics"][name], theirs["state_dict"][name])
            assert name.endswith("num_batches_tracked") or not torch.equal(value, theirs["state_dict"][name])
        else:
            assert torch.equal(value, theirs["state_dict"][name])
    assert mine["state_dict"]["net.stem.1.num_batches_tracked"] == 2


@pytest.mark.filterwarnings("ignore:.*many workers")
def test_what_was_validated_is_what_evaluates(uninterrupted, configuration):
    """The best checkpoint's weights, with its statistics, have its validation's loss."""
    from lightning import Trainer

    from crescendo.experiment import prepare

    run = uninterrupted(*TRAINING, *NET, *REFRESH)
    best = checkpoint(run, "best")
    experiment = prepare(configuration(*TRAINING, *NET))
    experiment.classifier.load_state_dict(best["state_dict"])
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    (metrics,) = trainer.validate(experiment.classifier, experiment.data, verbose=False)
    assert metrics["val/loss"] == pytest.approx(best["validation"]["val/loss"], rel=1e-5)


def test_costs_stage_validation_and_drift_are_logged(uninterrupted):
    run = uninterrupted(*TRAINING, *NET, *REFRESH)
    validated = [row for row in rows(run) if row["val/accuracy"]]
    assert [bool(row["val_stage/accuracy"]) for row in validated] == [True, True, False, False]  # 16, 32 px
    summary = json.loads((run / "summary.json").read_text())
    macs = 2 * 32 * summary["macs"]
    assert [float(row["bn_refresh/macs"]) for row in validated] == [macs] * 4
    assert summary["bn_refresh_macs"] == 4 * macs
    assert summary["bn_refresh_seconds"] > 0
    assert summary["compile_seconds"] == 0
    drifts = [row for row in rows(run) if row["bn_drift/mean"]]
    assert [row["epoch"] for row in drifts] == ["2"]
    assert float(drifts[0]["bn_drift/mean"]) > 0
    assert float(drifts[0]["bn_drift/variance"]) > 0


def test_only_other_resolutions_are_refreshed_where_that_is_asked_for(uninterrupted):
    run = uninterrupted(*TRAINING, *NET, *REFRESH, "bn_refresh_when=resized")
    validated = [row for row in rows(run) if row["val/accuracy"]]
    assert [bool(row["bn_refresh/macs"]) for row in validated] == [True, True, False, False]


@pytest.mark.slow
@pytest.mark.parametrize(("step", "devices"), [(8, 1), (9, 2)])
def test_a_killed_and_resumed_run_with_statistics_ends_as_one_that_was_not(
    tmp_path, uninterrupted, step, devices
):
    """At a stage's end, and inside the first epoch of the next."""
    overrides = (*TRAINING, *NET, *REFRESH, f"trainer.devices={devices}")
    script = str(REPOSITORY / "tests" / "killed.py")
    killed = command(script, str(step), *overrides, cwd=tmp_path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    run = only_run(tmp_path)
    resumed = train(f"resume={run}", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_end(run, uninterrupted(*overrides))
    assert checkpoint(run, "last")["running_statistics"]


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_a_compiled_run_trains_and_tells_its_compile_time(tmp_path, devices):
    result = train(*TINY, "compile=true", "callbacks=ema", f"trainer.devices={devices}", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    run = only_run(tmp_path)
    summary = json.loads((run / "summary.json").read_text())
    assert 0 < summary["compile_seconds"] < summary["seconds"]
    assert summary["images_per_second"] > 144 * 2 / summary["compile_seconds"]
    assert not any("_orig_mod" in name for name in checkpoint(run, "last")["state_dict"])
    assert "compiling" in result.stdout


def test_drift_is_taken_where_the_net_is(monkeypatch):
    """A checkpoint's statistics come on the CPU."""
    net = nn.Sequential(nn.BatchNorm2d(3))
    module, callback, devices = L.LightningModule(), StatisticsDrift(), []
    module.net = net
    callback.load_state_dict(batch_norm.copy_of(module))
    monkeypatch.setattr(batch_norm, "drift", lambda *both: devices.append(both) or (0.0, 0.0))
    trainer = SimpleNamespace(num_training_batches=1, loggers=[], current_epoch=1, global_step=1)
    callback.on_train_batch_end(trainer, module.to("meta"), None, None, 0)
    assert {value.device.type for values in devices[0] for value in values.values()} == {"meta"}
