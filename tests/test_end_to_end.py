"""The command line, driven as a user drives it: in a subprocess, from a directory of one's own."""

import csv
import json
import re
import subprocess
from pathlib import Path

import pytest
import torch
from commands import REPOSITORY, TINY, command, crescendo, only_run, train
from omegaconf import OmegaConf
from PIL import Image

from crescendo.answers import read_answers


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A run that was trained once for all tests, with the default logger and two loader processes."""
    place = tmp_path_factory.mktemp("finished")
    result = train(*TINY, "data.num_workers=2", "callbacks=ema", cwd=place)
    assert result.returncode == 0, result.stderr
    (place / "printed.txt").write_text(result.stdout)
    return only_run(place)


def test_help_lists_every_option_and_imports_no_torch(tmp_path):
    result = command("-X", "importtime", str(REPOSITORY / "train.py"), "--help", cwd=tmp_path)
    assert result.returncode == 0
    for group in sorted((REPOSITORY / "conf").iterdir()):
        options = sorted(path.stem for path in group.glob("*.yaml")) if group.name != "hydra" else []
        if options:
            assert f"{group.name}: {', '.join(options)}" in result.stdout
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert not imported & {"torch", "lightning", "numpy", "wandb", "pydantic"}


def test_the_shell_completes_options(tmp_path):
    line = "python train.py model=resnet"
    query = command(
        str(REPOSITORY / "train.py"),
        "-sc",
        "query=bash",
        cwd=tmp_path,
        COMP_LINE=line,
        COMP_POINT=str(len(line)),
    )
    assert "model=resnet20" in query.stdout.split()
    install = command(str(REPOSITORY / "train.py"), "-sc", "install=bash", cwd=tmp_path)
    assert "complete -o nospace" in install.stdout


def test_a_run_leaves_a_complete_directory(finished):
    files = {
        path.relative_to(finished).as_posix() for path in finished.rglob("*") if "wandb" not in path.parts
    }
    assert files == {
        *(
            "config.yaml",
            "overrides.yaml",
            "choices.yaml",
            "metrics.csv",
            "train.log",
            "summary.json",
            "confusion_matrix.csv",
            "predictions.csv",
        ),
        *("checkpoints", *(f"checkpoints/{name}.ckpt" for name in ("best", "last", "previous"))),
    }
    assert finished.parent.relative_to(finished.parents[2]).as_posix() == "runs/synthetic_lenet5_modern"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_[0-9a-f]{4}", finished.name)

    summary = json.loads((finished / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["parameters"] == 62_006  # 61,706 for one channel, and 2 x 6 x 25 weights more
    assert summary["macs"] > 0
    # an epoch of 128 images at 28 px, which cost less, and one at 32 px; forward and backward
    assert 3 * 128 * summary["macs"] < summary["train_macs"] < 3 * 256 * summary["macs"]
    assert 0 < summary["cpu_seconds"] < summary["seconds"]
    assert 0 < summary["data_wait"] < 1
    assert summary["peak_memory_bytes"] > 10**8
    assert summary["wandb_id"]
    assert {"test/accuracy", "test/loss", "val/accuracy"} <= set(summary["metrics"])
    assert 0 <= summary["metrics"]["test/accuracy"] <= 1

    config = OmegaConf.load(finished / "config.yaml")
    assert config.data.source.resolution == 32  # resolved
    assert OmegaConf.load(finished / "overrides.yaml")[:2] == ["data=synthetic", "data.source.samples=160"]

    for name in ("best.ckpt", "last.ckpt"):
        checkpoint = torch.load(finished / "checkpoints" / name, weights_only=True)
        assert checkpoint["state_dict"]

    with (finished / "confusion_matrix.csv").open() as file:
        rows = list(csv.reader(file))
    assert len(rows) == 11
    assert sum(int(cell) for row in rows[1:] for cell in row[1:]) == 40  # each test image once
    answers = read_answers(finished)
    assert answers.indices.tolist() == list(range(40))
    assert 1 - answers.wrong.mean() == pytest.approx(summary["metrics"]["test/accuracy"])


def test_metrics_follow_the_curriculum(finished):
    with (finished / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    training = [row for row in rows if row["train/loss"]]
    assert [int(row["step"]) for row in training] == [1, 3, 5, 7]
    assert [row["curriculum/resolution"] for row in training] == ["28", "28", "32", "32"]
    assert [row["regularization/label_smoothing"] for row in training] == ["0.0", "0.0", "0.1", "0.1"]
    assert all(0 < float(row["data/wait"]) < 1 for row in training)
    assert sum(bool(row["val/accuracy"]) for row in rows) == 2
    assert sum(bool(row["test/accuracy"]) for row in rows) == 1


def test_the_console_shows_the_stages_and_the_result(finished):
    printed = (finished.parents[2] / "printed.txt").read_text()
    for words in ("1/2", "2/2", "epoch 1/2", "28 px", "test accuracy", "images/s", "wandb sync"):
        assert words in printed


def test_the_same_seed_gives_the_same_weights_for_any_number_of_workers(finished, tmp_path):
    result = train(*TINY, "data.num_workers=0", "callbacks=ema", "logger=csv", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    one, other = (
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for run in (finished, only_run(tmp_path))
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_evaluate_repeats_the_test_from_any_directory(finished, tmp_path):
    result = crescendo("evaluate", str(finished), "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    summary = json.loads((finished / "summary.json").read_text())
    metrics = json.loads(result.stdout)["metrics"]
    assert metrics["test/accuracy"] == pytest.approx(summary["metrics"]["test/accuracy"])
    assert metrics["test/loss"] == pytest.approx(summary["metrics"]["test/loss"], rel=1e-6)


def test_predict_needs_no_data_set(finished, tmp_path):
    Image.new("RGBA", (50, 40), (200, 30, 30, 255)).save(tmp_path / "red.png")
    Image.new("L", (20, 90)).save(tmp_path / "black.jpg")
    result = crescendo("predict", str(finished), "red.png", "black.jpg", "--top", "2", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    answers = json.loads(result.stdout)
    assert [len(best) for best in answers.values()] == [2, 2]
    for best in answers.values():
        first, second = best.values()
        assert 1 >= first >= second >= 0


def test_predict_takes_directories_and_prints_rows(finished, image_folder, tmp_path):
    result = crescendo(
        *("predict", str(finished), str(image_folder), "photos/dark/0.jpg", "--top", "2", "--csv"),
        cwd=image_folder.parent,
    )
    assert result.returncode == 0, result.stderr
    rows = list(csv.DictReader(result.stdout.splitlines()))
    assert list(rows[0]) == ["file", "class_1", "probability_1", "class_2", "probability_2"]
    files = [str(path) for path in sorted(image_folder.rglob("*.*"))]
    assert [row["file"] for row in rows] == [*files, "photos/dark/0.jpg"]
    assert {**rows[files.index(str(image_folder / "dark" / "0.jpg"))], "file": ""} == {**rows[-1], "file": ""}
    (tmp_path / "none").mkdir()
    refused = crescendo("predict", str(finished), "none", cwd=tmp_path)
    assert refused.returncode == 2
    assert "none has no image files (.bmp, " in " ".join(refused.stderr.split())


@pytest.mark.slow  # notebooks/compare_runs.ipynb compares a sweep, too
def test_compare_shows_mean_and_spread_of_a_sweep(tmp_path):
    swept = train("-m", "seed=1,2", *TINY, "logger=csv", "debug=smoke", cwd=tmp_path)
    assert swept.returncode == 0, swept.stderr
    configs = sorted(tmp_path.rglob("config.yaml"))
    assert [path.parent.name for path in configs] == ["0", "1"]
    assert [OmegaConf.load(path).seed for path in configs] == [1, 2]
    files = ("--html", "report.html", "--csv", "runs.csv", "--markdown", "table.md")
    result = crescendo("compare", "runs/*", *files, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "2 finished runs in 1 group" in (tmp_path / "report.html").read_text()
    assert len((tmp_path / "runs.csv").read_text().splitlines()) == 3
    assert (tmp_path / "table.md").read_text().startswith("| run | runs | test accuracy |")
    assert "±" in result.stdout
    assert re.search(r"│\s+2 │", result.stdout)  # one row of two runs


def test_a_sweep_is_one_directory_and_outlives_a_bad_job(tmp_path):
    swept = train(
        "-m",
        "model=lenet5,lenet5_modern",
        *(*TINY[:3], *TINY[4:], "debug=smoke", "logger=csv"),
        cwd=tmp_path,
    )
    assert swept.returncode == 2
    assert "error: lenet5 takes 32 px only, stage 0 uses 28" in swept.stderr
    (config,) = tmp_path.rglob("config.yaml")
    assert config.parent.name == "1"
    assert (config.parents[1] / "0").is_dir()


@pytest.mark.slow
def test_two_processes_leave_one_directory(tmp_path):
    result = train(*TINY, "trainer.devices=2", "logger=csv", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    run = only_run(tmp_path)
    assert len(list(run.parent.iterdir())) == 1
    with (run / "confusion_matrix.csv").open() as file:
        rows = list(csv.reader(file))
    assert sum(int(cell) for row in rows[1:] for cell in row[1:]) == 40  # each test image once


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model=resnt20"], ["model=resnt20: there is no such option", "Did you mean resnet20"]),
        (["trainer.max_epoch=3"], ["trainer.max_epoch is not a setting", "Did you mean max_epochs"]),
        (["trainer.max_epochs=abc"], ["trainer.max_epochs=abc", "integer"]),
        (["modl=resnet20"], ["Did you mean model?"]),
        (
            ["curriculum.resolution.start=2"],
            ["resnet20 needs 4 px or more, stage 0 uses 2", "add curriculum.resolution.start=4"],
        ),
        (
            ["model=lenet5", "curriculum.resolution.start=16"],
            ["lenet5 takes 32 px only", "add curriculum=constant"],
        ),
        (["data=fashion_mnist", "data.root=nowhere"], ["nowhere has no FashionMNIST", "data.download=true"]),
        (
            ["model=plain20", "regularization.drop_path=0.1"],
            ["regularization.drop_path was given, but plain20 has no drop path"],
        ),
        (["seed"], ["'seed' is not an override"]),
    ],
)
def test_a_mistake_is_one_message_and_leaves_nothing(overrides, words, tmp_path):
    result = train(*overrides, cwd=tmp_path)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("error: ")
    for word in words:
        assert word in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_empty_class_is_named(image_folder, tmp_path):
    (image_folder / "empty").mkdir()
    result = train("data=folder", f"data.root={image_folder}", "plan=true", cwd=tmp_path)
    assert result.returncode == 2
    assert "class 'empty' is empty" in result.stderr


def test_a_folder_of_photographs_trains(image_folder, tmp_path):
    small = ("data.batch_size=8", "model=lenet5_modern", "curriculum.resolution.start=28")
    result = train("data=folder", f"data.root={image_folder}", *small, "debug=smoke", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    config = OmegaConf.load(only_run(tmp_path) / "config.yaml")
    assert config.data.num_classes == 3
    assert config.data.class_names == ["dark", "grey", "light"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda run: (run / "checkpoints" / "best.ckpt").write_bytes(b"not a checkpoint"),
            "best.ckpt is not a checkpoint",
        ),
        (lambda run: (run / "config.yaml").write_text("model: ["), "config.yaml cannot be read"),
        (lambda run: (run / "config.yaml").unlink(), "is not a run directory"),
    ],
)
def test_an_unreadable_run_is_refused(damage, message, finished, tmp_path):
    copy = tmp_path / "run"
    subprocess.run(["cp", "-r", finished, copy], check=True)
    damage(copy)
    result = crescendo("evaluate", str(copy), cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_the_plan_trains_nothing(tmp_path):
    result = train("plan=true", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for words in ("269,434 parameters", "16", "24", "32", "0.60 of the MACs of curriculum=constant"):
        assert words in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_none_is_bitwise_the_run_with_every_knob_at_zero(tmp_path):
    """Whatever the experiment: this one has ranges for RandAugment, mixup, cutmix and dropout."""
    small = ("data=synthetic", "data.source.samples=96", "data.batch_size=32", "data.augmentation.flip=true")
    net = (
        "model=efficientnet_b0",
        "model.width=0.25",
        "model.depth=0.5",
        "trainer=cpu",
        "trainer.max_epochs=4",
    )
    sizes = ("curriculum.resolution={start:32,end:48}", "curriculum.evaluation_resolution=48")
    sizes = (*sizes, "lr_schedule.warmup_epochs=1", "logger=csv")
    knobs = ("dropout", "drop_path", "randaugment", "random_erasing", "mixup", "cutmix", "label_smoothing")
    weights = []
    for off in (("regularization=none",), [f"regularization.{knob}=0" for knob in knobs]):
        place = tmp_path / str(len(off))
        place.mkdir()
        process = train("experiment=efficientnetv2_m_released", *small, *net, *sizes, *off, cwd=place)
        assert process.returncode == 0, process.stderr
        last = only_run(place) / "checkpoints" / "last.ckpt"
        weights.append(torch.load(last, weights_only=True)["state_dict"])
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name
