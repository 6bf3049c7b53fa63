"""What `crescendo evaluate` finds, on runs of seconds."""

import io
import json
import shutil

import numpy as np
import pytest
import torch
from commands import TINY, crescendo
from omegaconf import OmegaConf
from PIL import Image
from rich.console import Console

from crescendo.analysis.scores import Outcome
from crescendo.composing import with_data
from crescendo.errors import UserError
from crescendo.scoring import EvaluatedRun, evaluate_run, make_views, same_images

SYNTHETIC = (*TINY, "logger=csv")


@pytest.fixture
def runs(uninterrupted):
    """Two runs on the same test images."""
    return uninterrupted(*SYNTHETIC), uninterrupted(*SYNTHETIC, "seed=5", "optimizer.lr=0.01")


def test_the_test_is_that_of_the_run(runs):
    run, other = runs
    evaluation = evaluate_run(run, "cpu", resolutions=[28, 32], averaged=True, corrupted=True, other=other)
    summary, theirs = (json.loads((one / "summary.json").read_text())["metrics"] for one in runs)
    metrics = evaluation.scores.metrics
    assert {name: estimate.value for name, estimate in metrics.items()} == pytest.approx(
        {name: summary[name] for name in metrics}, rel=1e-5
    )
    low, high = metrics["test/accuracy"][1:]
    assert low <= summary["test/accuracy"] <= high
    assert (evaluation.images, evaluation.resolution) == (40, 32)
    assert evaluation.resolutions[32] == metrics["test/accuracy"]
    assert next(iter(evaluation.corruptions)) == "gaussian_noise"
    severities, mean = evaluation.corruptions["gaussian_noise"]
    assert mean.value == pytest.approx(sum(severities) / 5)
    against = evaluation.against
    assert against.accuracy.value == pytest.approx(theirs["test/accuracy"])
    assert against.difference.value == pytest.approx(summary["test/accuracy"] - theirs["test/accuracy"])
    assert against.mcnemar.only_first - against.mcnemar.only_second == round(40 * against.difference.value)


def test_against_itself_nothing_differs(runs):
    against = evaluate_run(runs[0], "cpu", other=runs[0]).against
    assert against.mcnemar == (0, 0, 1.0)
    assert against.difference == (0, 0, 0)


def test_other_images_are_refused():
    here, there = (Outcome(np.zeros((count, 2), np.float32), np.zeros(count, int)) for count in (4, 6))
    same_images(here, here, ("a", "b"))
    with pytest.raises(UserError, match=r"a and b are tested on different images \(4 and 6"):
        same_images(here, there, ("a", "b"))


def test_views_are_shifted_and_mirrored():
    images = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    images[..., 1, 0] = 9
    plain, down, up, right, left = make_views(images, flips=False)
    assert torch.equal(plain, images)
    for view, row, columns in ((down, 2, [0]), (up, 0, [0]), (right, 1, [0, 1])):
        assert view.nonzero()[:, 2:].tolist() == [[row, column] for column in columns]
    assert left.count_nonzero() == 0
    assert [view.dtype for view in make_views(images, flips=True)] == [torch.uint8] * 10
    assert torch.equal(make_views(images, flips=True)[5], images.flip(-1))


def test_the_command_says_all_as_json_and_draws(runs, tmp_path):
    extras = ("--resolutions", "32,28", "--tta", "--against", str(runs[1]), "--plot", "plot.png", "--json")
    result = crescendo("evaluate", str(runs[0]), *extras, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert list(found["resolutions"]) == ["28", "32"]
    assert found["against"]["run"] == str(runs[1])
    assert found["tta"]["metrics"].keys() == found["metrics"].keys() == found["intervals"].keys()
    assert found["class_accuracies"].keys() == found["class_intervals"].keys()
    assert sum(one["images"] for one in found["calibration"]) == 40
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.width > 900


def test_the_tables_fit_eighty_columns(runs):
    evaluation = evaluate_run(runs[0], "cpu", averaged=True, corrupted=True, other=runs[1])
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(evaluation.show())
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for words in ("test/calibration_error", "McNemar's exact test", "gaussian_noise", "95% interval"):
        assert words in text


def test_a_mistake_is_one_message(runs, tmp_path):
    result = crescendo("evaluate", str(runs[0]), "--resolutions", "32,large", cwd=tmp_path)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "--resolutions 32,large: give whole pixels between commas" in result.stderr


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"accelerator": "gpuu"}, "--accelerator: "),
        ({"data": ["sorce.samples=8"]}, "Did you mean source"),
        ({"data": ["data=fashion_mnist"]}, "the run was trained with 3"),
        ({"resolutions": [8]}, "--resolutions 8: lenet5_modern needs"),
    ],
)
def test_what_cannot_be_is_said(runs, settings, words):
    with pytest.raises(UserError, match=words):
        evaluate_run(runs[0], **{"accelerator": "cpu"} | settings)


def test_other_data_reaches_the_source(configuration, image_folder):
    config = configuration("data=folder", f"data.root={image_folder}")
    config = OmegaConf.create(OmegaConf.to_container(config, resolve=True))  # as a run records it
    changed = with_data(config, ["data.root=/elsewhere", "num_workers=0"])
    assert changed.data.source.root == changed.data.root == "/elsewhere"
    assert changed.data.num_workers == 0
    assert config.data.source.root == str(image_folder)
    with pytest.raises(UserError, match="write key=value"):
        with_data(config, ["/elsewhere"])
    with pytest.raises(UserError, match=r"data\.num_classes=10, the run was trained with 3"):
        with_data(config, ["data=digits"])


def test_other_images_of_the_same_classes_are_tested(uninterrupted, image_folder):
    training = ("data=folder", f"data.root={image_folder}", "data.batch_size=8", *TINY[3:], "logger=csv")
    run = uninterrupted(*training, "data.num_workers=0")
    elsewhere = image_folder.with_name("elsewhere")
    shutil.copytree(image_folder, elsewhere)
    trained = EvaluatedRun.load(run, "cpu", data=[f"root={elsewhere}", "source.test_fraction=0.5"])
    assert trained.class_names == ["dark", "grey", "light"]
    assert len(trained.test().labels) == 18
    (elsewhere / "light").rename(elsewhere / "bright")
    with pytest.raises(UserError, match="differ in classes: bright, light"):
        EvaluatedRun.load(run, "cpu", data=[f"root={elsewhere}"])
