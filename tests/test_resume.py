"""Runs that were interrupted go on as if they had not been."""

import signal
import subprocess
import sys

import pytest
from commands import REPOSITORY, command, only_run, train
from whole_runs import TRAINING, assert_same_end

EPOCHS_END = 4  # steps of an epoch
DROPPING = ("model=efficientnet_b0", "model.width=0.25", "model.depth=0.5", "curriculum.resolution.start=32")

RECIPES = (
    "optimizer=rmsprop_tf",
    "lr_schedule=exponential",
    "lr_schedule.warmup_epochs=1",
    "data.sampler=repeated",
    "data.augmentation.lighting=0.1",
    "loss=binary_cross_entropy",
    "callbacks=ema_warmed",
)


def killed(step, *overrides, cwd):
    """A run that died by SIGKILL once its checkpoint of `step` was written; its directory."""
    process = command(str(REPOSITORY / "tests" / "killed.py"), str(step), *overrides, cwd=cwd)
    assert process.returncode == -signal.SIGKILL, process.stderr
    return only_run(cwd)


@pytest.mark.parametrize(
    ("step", "overrides"),
    [
        pytest.param(EPOCHS_END, (), marks=pytest.mark.slow),
        pytest.param(2 * EPOCHS_END, ("data.num_workers=2",), marks=pytest.mark.slow),
        pytest.param(5, (), marks=pytest.mark.slow),
        (11, ("data.num_workers=2",)),  # in the second curriculum stage
        pytest.param(7, ("trainer.accumulate_grad_batches=2", *DROPPING), marks=pytest.mark.slow),
        pytest.param(EPOCHS_END, ("trainer.check_val_every_n_epoch=2",), marks=pytest.mark.slow),
        pytest.param(6, ("trainer.check_val_every_n_epoch=2",), marks=pytest.mark.slow),
        pytest.param(6, ("trainer.devices=2",), marks=pytest.mark.slow),
        pytest.param(6, RECIPES, marks=pytest.mark.slow),
        pytest.param(5, ("optimizer=lamb",), marks=pytest.mark.slow),
    ],
)
def test_a_killed_and_resumed_run_ends_as_one_that_was_not(tmp_path, uninterrupted, step, overrides):
    run = killed(step, *TRAINING, *overrides, cwd=tmp_path)
    assert not (run / "summary.json").exists()
    (run / "checkpoints" / ".last.ckpt.partial").write_bytes(b"half")
    resumed = train("resume=auto", *TRAINING, *overrides, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert f"goes on after step {step}" in " ".join(resumed.stdout.split())
    assert_same_end(run, uninterrupted(*TRAINING, *overrides))


def test_a_finished_run_is_not_resumed(tmp_path, uninterrupted):
    run = uninterrupted(*TRAINING)
    again = train(f"resume={run}", cwd=tmp_path)
    assert again.returncode == 2
    assert "is finished" in again.stderr


def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_used(tmp_path, uninterrupted):
    run = killed(6, *TRAINING, cwd=tmp_path)
    damage = run / "checkpoints" / "last.ckpt"
    content = bytearray(damage.read_bytes())
    content[len(content) // 2] ^= 1
    damage.write_bytes(content)
    resumed = train(f"resume={run}", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    said = " ".join(resumed.stdout.split())
    assert "is damaged: the checksum of" in said
    assert "goes on after step 5" in said
    assert (run / "checkpoints" / "last.ckpt.damaged").read_bytes() == bytes(content)
    assert_same_end(run, uninterrupted(*TRAINING))


@pytest.mark.slow
def test_averages_are_not_left_behind(tmp_path):
    run = killed(5, *TRAINING, cwd=tmp_path)
    refused = train(f"resume={run}", "callbacks=default", "resume_override=true", cwd=tmp_path)
    assert refused.returncode == 2
    assert "add callbacks=ema" in refused.stderr


def test_a_run_may_be_moved_before_it_is_resumed(tmp_path, uninterrupted):
    run = killed(6, *TRAINING, cwd=tmp_path)
    moved = run.rename(tmp_path / "moved")
    resumed = train(f"resume={moved}", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_end(moved, uninterrupted(*TRAINING))


def test_another_configuration_is_refused_and_shown(tmp_path):
    run = killed(5, *TRAINING, cwd=tmp_path)
    refused = train(f"resume={run}", "data.batch_size=16", "model=lenet5", "logger=csv", cwd=tmp_path)
    assert refused.returncode == 2
    assert "data.batch_size: 32 in the run, 16 was given" in refused.stderr
    assert "lenet5_modern" in refused.stderr
    assert "logger" not in refused.stderr
    assert "resume_override=true" in refused.stderr
    assert not (run / "summary.json").exists()


@pytest.mark.slow
def test_what_is_typed_again_is_no_change(tmp_path, image_folder):
    """A root that was relative, and a budget that became epochs."""
    typed = (
        *("data=folder", f"data.root={image_folder.relative_to(tmp_path)}", "data.batch_size=8"),
        *("model=lenet5_modern", "curriculum.resolution.start=28", "callbacks.checkpoint.every_n_steps=1"),
        *("budget=1GMAC", "trainer=cpu", "logger=csv"),
    )
    run = killed(2, *typed, cwd=tmp_path)
    resumed = train(f"resume={run}", *typed, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "goes on after step 2" in " ".join(resumed.stdout.split())


@pytest.mark.slow
def test_the_newest_run_is_not_looked_for_by_every_task_of_srun(tmp_path):
    refused = train("resume=auto", *TRAINING, cwd=tmp_path, SLURM_NTASKS="2", SLURM_STEP_ID="0")
    assert refused.returncode == 2
    assert "give resume=<run directory>" in refused.stderr


@pytest.mark.slow
def test_a_run_that_a_living_process_holds_is_not_taken(tmp_path):
    run = killed(5, *TRAINING, cwd=tmp_path)
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
