"""A run again by its own record."""

import json
import shutil

import pytest
from commands import TINY, crescendo
from whole_runs import assert_same_end

SETTINGS = (*TINY, "logger=csv", "callbacks=ema", "regularization.mixup=0.2")


@pytest.fixture
def original(uninterrupted, tmp_path):
    """A copy, to be told otherwise."""
    return shutil.copytree(uninterrupted(*SETTINGS), tmp_path / "original")


def edited(run, **values):
    path = run / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_the_same_comes_out_again(original, tmp_path):
    result = crescendo("reproduce", str(original), "--runs-dir", str(tmp_path / "again"), cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "the same, bit by bit: weights, metrics and predictions" in result.stdout
    (config,) = (tmp_path / "again").rglob("config.yaml")
    assert_same_end(config.parent, original)
    assert (config.parent / "overrides.yaml").read_text() == (original / "overrides.yaml").read_text()
    machine = json.loads((config.parent / "summary.json").read_text())["machine"]
    assert machine["threads"] == 1


@pytest.mark.slow
def test_the_same_comes_out_of_two_processes_again(uninterrupted, tmp_path):
    original = uninterrupted(*SETTINGS, "trainer.devices=2")
    result = crescendo("reproduce", str(original), "--runs-dir", str(tmp_path / "again"), cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("the same, bit by bit: weights, metrics and predictions") == 1
    (config,) = (tmp_path / "again").rglob("config.yaml")
    assert_same_end(config.parent, original)


def test_what_differs_is_named(original, tmp_path):
    """The record says another rate than the run was trained with, as if the code had changed."""
    config = original / "config.yaml"
    config.write_text(config.read_text().replace("\n  lr: ", "\n  lr: 1", 1))
    edited(original, git_revision="0123abc", machine={"processor": "another", "threads": 1})
    result = crescendo("reproduce", str(original), cwd=tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr
    told = " ".join(result.stdout.split())
    assert "not as it was: revision 0123abc, now " in told
    assert "not as it was: processor another, now " in told
    assert "not as it was: threads" not in told
    assert "different: best.ckpt: " in told
    assert "different: last.ckpt: " in told
    assert "different: metrics.csv: from step 1 on; train/loss is " in told
    assert "different: predictions.csv: " in told


def test_a_run_without_an_end_is_refused(original, tmp_path):
    edited(original, status="failed")
    result = crescendo("reproduce", str(original), cwd=tmp_path)
    assert result.returncode == 2
    assert "original is failed: there is no end that could be reached again" in " ".join(
        result.stderr.split()
    )
