import base64
import csv
import io
import json
import re

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from crescendo.analysis.comparison import compare, hold_against
from crescendo.analysis.results import write_confusion_matrix
from crescendo.answers import Answers, write_answers
from crescendo.data.sources import digits
from crescendo.report.content import read_content
from crescendo.report.gallery import make_gallery
from crescendo.report.page import LARGEST, write_page

NAMES = [str(number) for number in range(10)]
COLUMNS = "step epoch train/loss train/accuracy lr train/macs train/seconds curriculum/stage"
WRONG = {3: 0.9, 11: 0.99}  # test image: probability of the class after its own


@pytest.fixture(scope="module")
def composed(configuration):
    """The configuration of the digits' run."""
    return OmegaConf.create(OmegaConf.to_container(configuration("logger=csv"), resolve=True))


def made_run(
    place, composed, model="resnet20", seed=0, accuracy=0.9, status="finished", answers=True, **edits
):
    """A run of the digits that nobody trained: what a training leaves, with numbers of our own."""
    place.mkdir(parents=True)
    config = composed.copy()
    edits |= {"seed": seed, "model___target_": f"crescendo.models.resnet_cifar.{model}"}
    for key, value in edits.items():
        OmegaConf.update(config, key.replace("__", ".", 1), value, merge=False)
    OmegaConf.save(config, place / "config.yaml")
    OmegaConf.save(OmegaConf.create([f"model={model}", f"seed={seed}"]), place / "overrides.yaml")
    summary = {
        "status": status,
        "seconds": 9.0,
        "parameters": 1000,
        "macs": 2000,
        "train_macs": 1e9 * (1 + config.seed),
        "cpu_seconds": 5.0,
        "metrics": {"test/accuracy": accuracy},
    }
    (place / "summary.json").write_text(json.dumps(summary))
    with (place / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS.split(), "curriculum/resolution", "val/loss", "val/accuracy"])
        for epoch in range(4):
            step = 40 * epoch + 39
            training = [1 / (epoch + 1), 0.5, 0.1, 1e8 * (epoch + 1), epoch + 1.0, epoch // 2]
            writer.writerow([step, epoch, *training, 16 + 16 * (epoch // 2), "", ""])
            writer.writerow([step, epoch, *[""] * 7, 0.5, 0.6 + epoch / 10])
    labels = digits().test.labels
    answered, sure = labels.copy(), np.full(len(labels), 0.95)
    for index, probability in WRONG.items():
        answered[index], sure[index] = (labels[index] + 1) % 10, probability
    matrix = np.zeros((10, 10), dtype=np.int64)
    np.add.at(matrix, (labels, answered), 1)
    write_confusion_matrix(place / "confusion_matrix.csv", matrix, NAMES)
    if answers:
        right = np.where(answered == labels, sure, 1 - sure)
        write_answers(place, Answers(np.arange(len(labels)), labels, answered, sure, right))
    return place


def sweep(place, composed, **settings):
    return [
        made_run(place / f"{model}{seed}", composed, model, seed, accuracy, **settings)
        for model, accuracies in (("resnet20", (0.9, 0.92)), ("plain20", (0.8, 0.81)))
        for seed, accuracy in enumerate(accuracies)
    ]


def page_of(runs, path, **settings):
    size = write_page(hold_against(compare(runs)), path, title="a title", **settings)
    text = path.read_text(encoding="utf-8")
    assert size == len(text.encode())
    return text


def embedded(text, name):
    (found,) = re.findall(rf'<script type="application/json" id="{name}">(.*?)</script>', text, re.DOTALL)
    return json.loads(found)


def test_the_page_holds_everything_and_asks_for_nothing(tmp_path, composed):
    runs = sweep(tmp_path / "sweep", composed)
    text = page_of(runs, tmp_path / "deep" / "report.html")
    assert len(text.encode()) < LARGEST
    ours = text.replace(re.search(r'id="plotly">.*?</script>', text, re.DOTALL)[0], "")
    assert not re.search(r'(?:src|href)\s*=\s*"(?!#|data:)[^"]', ours)
    assert "http" not in ours.replace('http-equiv="Content-Security-Policy"', "")
    assert "default-src 'none'" in ours
    assert "4 finished runs in 2 groups" in ours
    assert "0.9100 ± 0.1271" in ours  # of .90 and .92
    plots = embedded(text, "plots")
    assert plots["groups"] == ["resnet20", "plain20"]
    assert plots["frontier"][0]["costs"]["train_macs"] == [1e9, 2e9]
    (curve, _) = plots["curves"][0]
    assert curve["validation"]["val/accuracy"] == [0.6, 0.7, 0.8, 0.9]
    assert curve["validation_costs"]["images"] == [1280, 2560, 3840, 5120]
    assert [(band["resolution"], band["epoch"]) for band in curve["bands"]] == [(16, [0, 2]), (32, [2, 4])]


SCRIPT = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"


def test_what_comes_from_runs_is_escaped(tmp_path, composed):
    names = [SCRIPT, *NAMES[1:]]
    runs = [
        made_run(tmp_path / "a", composed, seed=1, data__class_names=names, arm=f"arm{SCRIPT}"),
        made_run(tmp_path / f"b{SCRIPT.replace('/', '|')}", composed, seed=1, arm="plain"),
    ]
    write_confusion_matrix(runs[0] / "confusion_matrix.csv", np.ones((10, 10), dtype=np.int64), names)
    (runs[1] / "summary.json").write_text(json.dumps({"status": f"failed {SCRIPT}", "metrics": {}}))
    text = page_of(runs, tmp_path / "report.html")
    assert "alert(1)" in text
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    assert embedded(text, "plots")["groups"][0] == f"arm{SCRIPT}"
    assert text.count("<script") == text.count("</script>") == 4


def test_mistakes_are_sorted_by_how_sure_they_are(tmp_path, composed):
    rows = compare(sweep(tmp_path, composed))
    gallery = make_gallery(rows)
    assert list(gallery.mistakes) == ["all runs", "resnet20", "plain20"]
    labels = digits().test.labels
    first, second = gallery.mistakes["all runs"]
    assert [first.place.split(":")[1], second.place.split(":")[1]] == ["11", "3"]
    assert first[1:] == (str(labels[11]), str((labels[11] + 1) % 10), 0.99, 4, 4)
    assert (second.probability, second.runs) == (0.9, 4)
    assert gallery.notes == []
    assert list(gallery.thumbnails) == [second.place, first.place]
    head, _, content = gallery.thumbnails[first.place].partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        assert np.array_equal(np.asarray(image), digits().test.images[11, 0].numpy())


def test_without_the_data_the_page_says_so(tmp_path, composed):
    gone = {"data__source": {"_target_": "crescendo.data.folders.folder", "root": str(tmp_path / "gone")}}
    runs = [made_run(tmp_path / "a", composed, **gone)]
    gallery = make_gallery(compare(runs))
    assert len(gallery.mistakes["all runs"]) == 2
    assert gallery.thumbnails == {}
    (note,) = gallery.notes
    assert note.startswith("Without images, since the test set cannot be read here: ")
    assert "gone is not a directory" in note
    text = page_of(runs, tmp_path / "report.html")
    assert "gone is not a directory" in text
    assert "<img" not in text


def test_data_that_has_changed_is_not_shown_as_what_was_tested(tmp_path, composed):
    (run,) = [made_run(tmp_path / "a", composed)]
    labels = (digits().test.labels + 1) % 10
    wrong = np.zeros(len(labels), dtype=np.int64)
    ones = np.full(len(labels), 0.9)
    write_answers(run, Answers(np.arange(len(labels)), labels, wrong, ones, 1 - ones))
    gallery = make_gallery(compare([run]))
    assert gallery.thumbnails == {}
    assert "has other labels by now" in gallery.notes[0]


def test_runs_of_other_images_have_thumbnails_of_their_own(tmp_path, composed):
    longer = made_run(tmp_path / "b", composed, "plain20")
    lines = (longer / "predictions.csv").read_text().splitlines()
    (longer / "predictions.csv").write_text("\n".join(lines[:100]) + "\n")
    gallery = make_gallery(compare([made_run(tmp_path / "a", composed), longer]))
    assert [mistake.place for mistake in gallery.mistakes["all runs"]] == ["0:11", "0:3", "1:11", "1:3"]
    assert gallery.thumbnails["0:11"] == gallery.thumbnails["1:11"]


def test_runs_without_answers_are_named(tmp_path, composed):
    rows = compare(sweep(tmp_path, composed, answers=False))
    gallery = make_gallery(rows)
    assert gallery.mistakes == {}
    assert gallery.notes == [
        "resnet20: 2 of 2 runs recorded no predictions.csv.",
        "plain20: 2 of 2 runs recorded no predictions.csv.",
    ]


def test_a_group_without_a_result_has_its_place(tmp_path, composed):
    runs = sweep(tmp_path, composed)
    runs.append(made_run(tmp_path / "x", composed, "resnet56", status="failed"))
    content = read_content(hold_against(compare(runs)))
    assert content.groups == ["resnet20", "plain20", "resnet56"]
    assert content.unfinished == [f"failed {tmp_path / 'x'}"]
    assert content.runs[2] == ("resnet56", [])
    assert content.classes.rows[0][1][2] is None
    assert "1 not finished" in page_of(runs, tmp_path / "report.html")


def test_classes_and_pairs_are_of_all_seeds(tmp_path, composed):
    content = read_content(hold_against(compare(sweep(tmp_path, composed))))
    labels = digits().test.labels
    label = labels[11]
    images, wrong = int((labels == label).sum()), sum(labels[index] == label for index in WRONG)
    assert content.classes.rows[label][1] == pytest.approx([1 - wrong / images] * 2)
    assert {pair[0] for pair in content.pairs} == {"resnet20", "plain20"}
    assert ("resnet20", str(label), str((label + 1) % 10)) in [pair[:3] for pair in content.pairs]
    assert content.settings[0][0] == "model._target_"
    assert content.settings[0][1] == ["resnet20", "plain20"]
