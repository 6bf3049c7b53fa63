"""Disks fill up, directories go, processes are killed: a run ends with a clear word, and can be resumed."""

import json
import os
import shutil
import signal

import pytest
import torch
from commands import REPOSITORY, command, only_run, train
from test_interruption import LONGER, children, ended, started, wait_for_checkpoint, wait_for_end
from whole_runs import TRAINING, assert_same_end

from crescendo.training import _worker_error


def status(run):
    return json.loads((run / "summary.json").read_text())["status"]


def test_a_full_disk_ends_the_run_and_damages_nothing(tmp_path, uninterrupted):
    size = (uninterrupted(*TRAINING) / "checkpoints" / "last.ckpt").stat().st_size
    # The first checkpoints fit, and later ones, which hold the momentum of every weight, too; nothing larger.
    full = command(str(REPOSITORY / "tests" / "limited.py"), str(size // 2), *TRAINING, cwd=tmp_path)
    assert full.returncode == 2
    assert "cannot be written: File too large" in full.stderr
    assert "MB free there" in full.stderr
    assert "Traceback" not in full.stderr
    run = only_run(tmp_path)
    assert status(run) == "failed"
    assert not list(run.rglob(".*.partial"))
    for path in run.rglob("*.ckpt"):
        torch.load(path, weights_only=True)
    resumed = train(f"resume={run}", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_end(run, uninterrupted(*TRAINING))


def test_a_directory_that_is_removed_ends_the_run(tmp_path):
    process = started(REPOSITORY / "train.py", *LONGER, cwd=tmp_path)
    wait_for_checkpoint(process, tmp_path)
    shutil.rmtree(only_run(tmp_path), ignore_errors=True)
    code, said, _ = ended(process)
    assert code == 2, said
    assert "cannot be written" in said
    assert "Traceback" not in said


def test_a_directory_that_cannot_be_made_stops_before_the_training(tmp_path):
    (tmp_path / "file").write_text("")
    refused = train(*TRAINING, "runs_dir=file/runs", cwd=tmp_path)
    assert refused.returncode == 2
    assert "cannot be made" in refused.stderr
    assert "Set runs_dir=" in refused.stderr


def test_a_worker_that_is_gone_is_told_from_other_errors():
    lost = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.\nmore")
    found = ValueError()
    found.__cause__ = lost
    assert _worker_error(found) == "DataLoader worker (pid 7) is killed by signal: Killed."
    for handing_over in (ConnectionResetError(104, "Connection reset by peer"), EOFError()):
        assert _worker_error(handing_over) == "A DataLoader worker ended while it handed a batch over."
    assert _worker_error(RuntimeError("shapes differ")) is None


@pytest.mark.slow
def test_a_loader_worker_that_is_killed_is_named(tmp_path, uninterrupted):
    overrides = (*LONGER, "data.num_workers=2")
    process = started(REPOSITORY / "train.py", *overrides, cwd=tmp_path)
    wait_for_checkpoint(process, tmp_path)
    os.kill(children(process.pid, "train.py")[0], signal.SIGKILL)
    code, said, _ = ended(process)
    assert code == 2, said
    assert "fewer data.num_workers" in said
    assert "Traceback" not in said
    run = only_run(tmp_path)
    assert status(run) == "failed"
    resumed = train(f"resume={run}", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_end(run, uninterrupted(*overrides))


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_takes_the_others_with_it(tmp_path, rank):
    process = started(REPOSITORY / "train.py", *LONGER, "trainer.devices=2", cwd=tmp_path)
    wait_for_checkpoint(process, tmp_path)
    (other,) = children(process.pid, "train.py")
    os.kill(other if rank else process.pid, signal.SIGKILL)
    code, said, took = ended(process)
    assert took < 30
    wait_for_end(other)
    if rank:
        assert code == 2, said
        assert "rank 1 ended with signal 9" in said
        assert status(only_run(tmp_path)) == "failed"


@pytest.mark.slow
def test_a_rank_that_measured_and_is_killed_is_named(tmp_path):
    typed = [override for override in LONGER if "max_epochs" not in override]
    process = started(REPOSITORY / "train.py", *typed, "trainer.devices=2", "budget=5min", cwd=tmp_path)
    wait_for_checkpoint(process, tmp_path)
    (other,) = children(process.pid, "train.py")
    os.kill(other, signal.SIGKILL)
    code, said, _ = ended(process)
    assert code == 2, said
    assert "rank 1 ended with signal 9" in said
    assert status(only_run(tmp_path)) == "failed"
