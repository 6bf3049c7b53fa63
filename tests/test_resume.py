"""Runs that were interrupted go on as if they had not been."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from commands import REPOSITORY, TINY, only_run, train

TRAINING = (*TINY, "logger=csv", "callbacks=ema", "trainer.max_epochs=4", "regularization.mixup=0.2")


def killed_after_an_epoch(*overrides, cwd):
    """A run that was killed as soon as a checkpoint was there; its directory."""
    process = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "train.py"), *overrides],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while not list(cwd.rglob("last.ckpt")):
            assert process.poll() is None, "ended before its first checkpoint"
            assert time.monotonic() < deadline, "no checkpoint in two minutes"
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    return only_run(cwd)


def rows(run):
    with (run / "metrics.csv").open() as file:
        return [
            {key: value for key, value in row.items() if key != "train/images_per_second"}
            for row in csv.DictReader(file)
        ]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_and_resumed_run_ends_as_one_that_was_not(tmp_path, workers):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    killed.mkdir()
    whole.mkdir()
    overrides = (*TRAINING, f"data.num_workers={workers}")
    run = killed_after_an_epoch(*overrides, cwd=killed)
    assert not (run / "summary.json").exists()
    before = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert before["global_step"] < 16  # of four epochs of four steps
    (run / "checkpoints" / ".last.ckpt.partial").write_bytes(b"half")

    resumed = train("resume=auto", *overrides, cwd=killed)
    assert resumed.returncode == 0, resumed.stderr
    reference = train(*overrides, cwd=whole)
    assert reference.returncode == 0, reference.stderr

    for name in ("last.ckpt", "best.ckpt"):
        ours, theirs = (
            torch.load(only_run(place) / "checkpoints" / name, weights_only=True) for place in (killed, whole)
        )
        for part in (
            "state_dict",
            "current_model_state",
            "averaging_state",
            "optimizer_states",
            "validation",
        ):
            torch.testing.assert_close(
                ours.get(part), theirs.get(part), rtol=0, atol=0, msg=f"{name}: {part}"
            )
    assert rows(only_run(killed)) == rows(only_run(whole))
    summaries = [json.loads((only_run(place) / "summary.json").read_text()) for place in (killed, whole)]
    assert summaries[0]["metrics"] == summaries[1]["metrics"]
    assert not list(killed.rglob(".*.partial"))

    again = train(f"resume={run}", cwd=killed)
    assert again.returncode == 2
    assert "is finished" in again.stderr


def test_another_configuration_is_refused_and_shown(tmp_path):
    run = killed_after_an_epoch(*TRAINING, cwd=tmp_path)
    refused = train(f"resume={run}", "data.batch_size=16", "model=lenet5", "logger=csv", cwd=tmp_path)
    assert refused.returncode == 2
    assert "data.batch_size: 32 in the run, 16 was given" in refused.stderr
    assert "lenet5_modern" in refused.stderr
    assert "logger" not in refused.stderr
    assert "resume_override=true" in refused.stderr
    assert not (run / "summary.json").exists()


def test_a_run_that_a_living_process_holds_is_not_taken(tmp_path):
    run = killed_after_an_epoch(*TRAINING, cwd=tmp_path)
    hold = "\n".join(
        (
            "import fcntl, sys",
            "file = open(sys.argv[1], 'w')",
            "fcntl.lockf(file, fcntl.LOCK_EX)",
            "print('held', flush=True)",
            "input()",
        )
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(run / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "held\n"
    named, auto = (train(f"resume={which}", *TRAINING, cwd=tmp_path) for which in (run, "auto"))
    holder.communicate("\n")
    assert named.returncode == auto.returncode == 2
    assert "held by a living process" in named.stderr
    assert "no unfinished run" in auto.stderr
