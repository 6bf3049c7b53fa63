"""Runs that are told to end do so, whole, and go on as if they had not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import REPOSITORY, command, only_run, train
from whole_runs import TRAINING, assert_same_end

# Fifty steps an epoch: a signal comes somewhere inside one.
LONGER = (*TRAINING, "data.source.samples=2000", "callbacks.checkpoint.every_n_steps=10")
SECONDS = 30  # that an end may take
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NAME": "training",
    "SLURM_NTASKS": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_STEP_ID": "0",
}


def started(script, *arguments, cwd, start_new_session=False, **environment):
    return subprocess.Popen(
        [sys.executable, str(script), *arguments],
        cwd=cwd,
        start_new_session=start_new_session,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_checkpoint(process, place):
    deadline = time.monotonic() + 120
    while not list(place.rglob("last.ckpt")):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline, "no checkpoint in two minutes"
        time.sleep(0.01)


def ended(process):
    """Its exit code and what it said, within the time that it has."""
    begin = time.monotonic()
    output, _ = process.communicate(timeout=SECONDS)
    return process.returncode, " ".join(output.split()), time.monotonic() - begin


def children(number, name):
    """Processes that this one started, by what is in their command."""
    command = ["pgrep", "-P", str(number), "-f", name]
    return [int(pid) for pid in subprocess.run(command, capture_output=True, text=True).stdout.split()]


def is_alive(number):
    """Whether there is such a process; one that only waits to be collected is none."""
    stat = Path(f"/proc/{number}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_for_end(number):
    deadline = time.monotonic() + SECONDS
    while is_alive(number):
        assert time.monotonic() < deadline, f"process {number} is left"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("number", "devices"),
    [
        pytest.param(signal.SIGINT, 1, marks=pytest.mark.slow),
        (signal.SIGTERM, 1),
        pytest.param(signal.SIGTERM, 2, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 2, marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_a_run_at_its_next_step(tmp_path, uninterrupted, number, devices):
    overrides = (*LONGER, f"trainer.devices={devices}")
    process = started(REPOSITORY / "train.py", *overrides, cwd=tmp_path)
    wait_for_checkpoint(process, tmp_path)
    process.send_signal(number)
    code, said, _ = ended(process)
    assert code == 128 + number, said
    assert f"{number.name}: saved after step" in said
    run = only_run(tmp_path)
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["status"], summary["error"]) == ("interrupted", f"interrupted by {number.name}")
    resumed = train(f"resume={run}", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_end(run, uninterrupted(*overrides))


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_to_the_whole_group_is_one_signal(tmp_path, uninterrupted, number):
    """As Ctrl-C and `timeout` send it: to the loader's workers, too."""
    overrides = (*LONGER, "data.num_workers=2")
    process = started(REPOSITORY / "train.py", *overrides, cwd=tmp_path, start_new_session=True)
    wait_for_checkpoint(process, tmp_path)
    os.killpg(process.pid, number)
    code, said, _ = ended(process)
    assert code == 128 + number, said
    assert "again" not in said
    run = only_run(tmp_path)
    assert json.loads((run / "summary.json").read_text())["status"] == "interrupted"
    resumed = train(f"resume={run}", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_end(run, uninterrupted(*overrides))


@pytest.mark.parametrize(
    ("place", "devices", "workers"),
    [
        ("training_step:3", 1, 0),  # the epoch's last: its validation is still to come
        pytest.param("test_step:0", 1, 2, marks=pytest.mark.slow),
        pytest.param("validation_step:3", 1, 2, marks=pytest.mark.slow),  # the last
        pytest.param("validation_step:1", 2, 0, marks=pytest.mark.slow),
        pytest.param("validation_step:0", 1, 0, marks=pytest.mark.slow),
        pytest.param("test_step:0", 1, 0, marks=pytest.mark.slow),
        pytest.param("test_step:0", 2, 0, marks=pytest.mark.slow),
    ],
)
def test_a_signal_at_an_epochs_end_loses_nothing(tmp_path, uninterrupted, place, devices, workers):
    settings = (f"trainer.devices={devices}", f"data.num_workers={workers}", "data.eval_batch_size=4")
    overrides = (*TRAINING, *settings)
    told = command(str(REPOSITORY / "tests" / "told.py"), place, *overrides, cwd=tmp_path)
    assert told.returncode == 143, told.stderr
    run = only_run(tmp_path)
    assert json.loads((run / "summary.json").read_text())["status"] == "interrupted"
    resumed = train("resume=auto", *overrides, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_end(run, uninterrupted(*overrides))


@pytest.mark.parametrize("again", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_step_that_does_not_end_is_not_waited_for(tmp_path, again):
    seconds = 60 if again else 2
    process = started(
        REPOSITORY / "tests" / "told.py", "stuck", *TRAINING, f"stop_seconds={seconds}", cwd=tmp_path
    )
    while "stuck" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    if again:
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
    code, said, took = ended(process)
    assert code == 143
    assert took < 10
    assert ("SIGTERM again" if again else "not ended after stop_seconds=2") in said


def test_a_rank_that_hangs_is_not_waited_for(tmp_path):
    process = started(REPOSITORY / "train.py", *LONGER, "trainer.devices=2", "stop_seconds=2", cwd=tmp_path)
    wait_for_checkpoint(process, tmp_path)
    (other,) = children(process.pid, "train.py")
    os.kill(other, signal.SIGSTOP)
    time.sleep(1)  # by now rank 0 waits for it, and runs no Python
    process.send_signal(signal.SIGTERM)
    code, said, _ = ended(process)
    assert code == 143, said
    assert "not ended after stop_seconds=2" in said
    wait_for_end(other)


@pytest.mark.slow
def test_slurm_requeues_a_job_whose_time_is_over(tmp_path, uninterrupted):
    tools = tmp_path / "tools"
    tools.mkdir()
    scontrol = tools / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tools}/asked\n')
    scontrol.chmod(0o755)
    slurm = SLURM | {"PATH": f"{tools}:{os.environ['PATH']}"}
    process = started(REPOSITORY / "train.py", *LONGER, cwd=tmp_path, **slurm)
    wait_for_checkpoint(process, tmp_path)
    process.send_signal(signal.SIGUSR1)
    code, said, _ = ended(process)
    assert code == 128 + signal.SIGUSR1, said
    assert (tools / "asked").read_text() == "requeue 7\n"
    run = only_run(tmp_path)
    again = train(*LONGER, cwd=tmp_path, **slurm, SLURM_RESTART_COUNT="1")
    assert again.returncode == 0, again.stderr
    assert only_run(tmp_path) == run
    assert_same_end(run, uninterrupted(*LONGER))
