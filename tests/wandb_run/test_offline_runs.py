"""Offline runs, driven from the command line and read back as W&B reads them."""

import csv
import json
from pathlib import Path

import pytest
from commands import REPOSITORY, TINY, command, only_run, train
from PIL import Image
from test_resume import killed
from wandb_files import content, history, sessions, summary

from crescendo.runs import read_summary


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    place = tmp_path_factory.mktemp("finished")
    said = train(*TINY, "logger.artifact=true", "logger.tags=[quick]", "logger.notes=first", cwd=place)
    assert said.returncode == 0, said.stderr
    assert said.stdout.count("wandb sync") == 1
    assert "W&B shows" not in said.stdout
    return only_run(place)


@pytest.fixture(scope="module")
def session(finished):
    (directory,) = sessions(finished)
    return directory


def test_a_run_says_what_it_is(finished, session):
    (run,) = content(session, "run")
    assert (run["project"], run["display_name"], run["job_type"]) == ("crescendo", finished.name, "train")
    assert (run["tags"], run["notes"]) == (["quick"], "first")
    config = summary(session)["config"]
    for group, option in {
        "data": "synthetic",
        "model": "lenet5_modern",
        "regularization": "light",
        "curriculum": "progressive",
        "optimizer": "sgd",
        "lr_schedule": "cosine",
        "trainer": "cpu",
    }.items():
        assert config[group] == option
    assert (config["seed"], config["parameters"]) == (0, 62_006)
    assert config["macs"] == read_summary(finished)["macs"]
    assert config["git_revision"] == read_summary(finished)["git_revision"]
    assert config["run_directory"] == str(finished)
    assert config["settings"]["data"]["batch_size"] == 32
    assert config["settings"]["curriculum"]["resolution"] == {"start": 28, "end": 32}


def test_every_logged_step_is_a_row_of_metrics_csv(finished, session):
    rows = history(session)
    with (finished / "metrics.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [row["_step"] for row in rows] == list(range(len(written) + 1))  # and one of tables
    for row, line in zip(rows, written, strict=False):
        for name, value in line.items():
            if value and name != "step":
                assert row[name] == pytest.approx(float(value)), name
    training = [row for row in rows if "train/loss" in row]
    assert [row["train/images"] for row in training] == [64, 128, 192, 256]
    assert [row["curriculum/resolution"] for row in training] == [28, 28, 32, 32]
    for name in ("train/accuracy", "train/images_per_second", "data/wait", "memory/peak_bytes", "lr"):
        assert all(row[name] >= 0 for row in training)
    assert all(row["regularization/label_smoothing"] in (0, 0.1) for row in training)
    validation = [row for row in rows if "val/accuracy" in row]
    assert [row["train/images"] for row in validation] == [128, 256]
    assert [row["train/epochs"] for row in validation] == [1, 2]


def test_the_axes_are_defined(session):
    defined = content(session, "metric")
    assert {metric["name"] for metric in defined if "name" in metric} == {
        *("epoch", "train/epochs", "train/images", "train/macs", "train/seconds"),
    }
    (others,) = [metric for metric in defined if metric.get("glob_name") == "*"]
    assert others["step_metric"] == "train/epochs"


def test_the_end_shows_tables_and_pictures(finished, session):
    last = history(session)[-1]
    assert last["test/confusion_matrix_table.nrows"] == 100
    assert last["test/confusions.nrows"] > 0
    assert last["test/classes.nrows"] == len({row[1] for row in predictions(finished)})
    wrong = sum(label != answer for _, label, answer, *_ in predictions(finished))
    assert last["test/mistakes.nrows"] == min(wrong, 18)
    table = json.loads((session / "files" / last["test/mistakes.path"]).read_text())
    assert table["columns"][-2:] == ["image", "what speaks for the answer"]
    (artifact,) = [each for each in content(session, "artifact") if "testmistakes" in each["name"]]
    kept = {entry["path"]: Path(entry["local_path"]) for entry in artifact["manifest"]["contents"]}
    assert all(path.is_relative_to(finished) for path in kept.values())
    table = json.loads(kept["test/mistakes.table.json"].read_text())
    assert {(cell["width"], cell["height"]) for row in table["data"] for cell in row[-2:]} == {(32, 32)}
    with Image.open(kept[table["data"][0][-1]["path"]]) as picture:
        assert (picture.mode, picture.size) == ("RGB", (32, 32))
    said = summary(session)["summary"]
    assert said["status"] == "finished"
    assert said["test/accuracy"] == read_summary(finished)["metrics"]["test/accuracy"]
    assert said["train_macs"] == read_summary(finished)["train_macs"]


def predictions(run):
    with (run / "predictions.csv").open() as file:
        return list(csv.reader(file))[1:]


def test_the_best_checkpoint_is_an_artifact_in_the_shape_of_a_run(session):
    models = [artifact for artifact in content(session, "artifact") if artifact["type"] == "model"]
    (model,) = models
    assert "best" in model["aliases"]
    paths = {entry["path"] for entry in model["manifest"]["contents"]}
    assert paths == {"config.yaml", "overrides.yaml", "choices.yaml", "checkpoints/best.ckpt"}


def test_nothing_is_left_outside_of_the_run_directory(finished):
    assert [path.name for path in finished.parents[2].iterdir()] == ["runs"]


def exit_codes(session):
    return [end["exit_code"] for end in content(session, "exit")]


def test_a_run_that_fails_has_failed(tmp_path):
    driver = str(REPOSITORY / "tests" / "poisoned.py")
    assert command(driver, "2", *TINY, cwd=tmp_path).returncode == 2
    (session,) = sessions(only_run(tmp_path))
    assert exit_codes(session) == [1]
    said = summary(session)["summary"]
    assert said["status"] == "failed"
    assert "not finite" in said["error"]


def test_a_run_whose_answers_cannot_be_written_has_failed_in_wandb_too(tmp_path):
    ended = command(str(REPOSITORY / "tests" / "without_room.py"), *TINY, cwd=tmp_path)
    assert ended.returncode == 2
    assert "cannot be written: No space left on device" in " ".join(ended.stderr.split())
    run = only_run(tmp_path)
    assert read_summary(run)["status"] == "failed"
    (session,) = sessions(run)
    assert exit_codes(session) == [1]


def test_a_run_that_was_killed_and_resumed_is_one_run(tmp_path):
    """It goes on from a checkpoint before the last rows: those come again, and are not sent again."""
    run = killed(8, *TINY, "trainer.max_epochs=3", cwd=tmp_path)
    (run / "checkpoints" / "last.ckpt").unlink()
    resumed = train(f"resume={run}", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    said = " ".join(resumed.stdout.split())
    assert "goes on after step 4" in said
    assert said.count("wandb sync") == 1
    parts = sessions(run)
    assert len(parts) == 2
    assert (exit_codes(parts[0]), exit_codes(parts[1])) == ([], [0])
    for each in parts:  # the first may have lost all that it had
        assert {start["run_id"] for start in content(each, "run")} <= {read_summary(run)["wandb_id"]}
    assert summary(parts[1])["config"]["model"] == "lenet5_modern"
    rows = [row for each in parts for row in history(each)]
    with (run / "metrics.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [row["_step"] for row in rows] == list(range(len(written) + 1))
    for name in ("train/images", "train/macs", "train/epochs", "epoch", "trainer/global_step"):
        values = [row[name] for row in rows if name in row]
        assert values == sorted(values), name
    assert [row["train/images"] for row in rows if "train/loss" in row] == [64, 128, 192, 256, 320, 384]


@pytest.mark.slow  # four processes
def test_the_jobs_of_a_sweep_are_runs_of_one_group(tmp_path):
    sweep = train("-m", *TINY, "optimizer.lr=0.01,1e38", "seed=1,2", "logger.job_type=search", cwd=tmp_path)
    assert sweep.returncode == 2
    (directory,) = (tmp_path / "runs" / "synthetic_lenet5_modern").iterdir()
    runs = [sessions(directory / str(job))[0] for job in range(4)]
    said = [content(run, "run")[0] for run in runs]
    assert {run["run_group"] for run in said} == {directory.name}
    assert len({run["run_id"] for run in said}) == 4
    assert {run["job_type"] for run in said} == {"search"}
    assert [exit_codes(run) for run in runs] == [[0], [0], [1], [1]]
