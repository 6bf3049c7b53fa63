import logging
import sys

import numpy as np
import pytest
import torch

from crescendo.answers import Answers
from crescendo.classifier import ImageClassifier
from crescendo.data import Transform
from crescendo.data.datamodule import AddressedDataset
from crescendo.data.decoding import ImageError
from crescendo.data.images import StoredImages
from crescendo.models import create_model
from crescendo.optim import Constant
from crescendo.wandb_run.results import show

NAMES = ["cat", "dog", "owl"]


@pytest.fixture
def warnings(caplog):
    logging.getLogger("crescendo").propagate = True
    return lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def after_a_test(classes=3):
    """A classifier that was tested on five images: the second and the last are taken for something else."""
    net = create_model("resnet20", classes, 1, width=4)
    classifier = ImageClassifier(net, torch.optim.SGD, Constant(), mean=[0.0], std=[1.0], num_classes=classes)
    labels, answers = np.array([0, 0, 1, 2, 2]), np.array([0, 1, 1, 2, 0])
    sure = np.array([0.9, 0.6, 0.5, 0.7, 0.8])
    classifier.answers = Answers(np.arange(5), labels, answers, sure, 1 - sure)
    counts = torch.zeros(classes, classes, dtype=torch.int64)
    counts[0, :2], counts[1, 1], counts[2, 0], counts[2, 2] = torch.tensor([1, 1]), 1, 1, 1
    classifier.confusion_matrix = counts
    images = torch.randint(0, 256, (5, 1, 12, 12), dtype=torch.uint8)
    return classifier, AddressedDataset(StoredImages(images, labels), Transform(1))


def test_what_is_shown_is_what_the_test_answered(warnings):
    shown = show(*after_a_test(), NAMES, 16)
    assert set(shown) == {"test/confusion_matrix", "test/confusions", "test/classes", "test/mistakes"}
    assert shown["test/confusions"].data == [["cat", "dog", 0.5], ["owl", "cat", 0.5]]
    assert shown["test/classes"].data[0] == ["cat", 2, 0.5, 0.5, "dog", 0.5]
    cells = shown["test/confusion_matrix"].table.data
    assert ["owl", "cat", 1] in cells
    assert len(cells) == 9
    mistakes = shown["test/mistakes"]
    assert [row[:5] for row in mistakes.data] == [
        ["image 4", "owl", "cat", 0.8, pytest.approx(0.2)],
        ["image 1", "cat", "dog", 0.6, pytest.approx(0.4)],
    ]
    assert mistakes.columns[5:] == ["image", "what speaks for the answer"]
    assert {picture.image.size for row in mistakes.data for picture in row[5:]} == {(16, 16)}
    assert warnings() == []


def test_the_picture_is_the_mistake_s(warnings):
    classifier, test = after_a_test()
    test.images.images[:] = torch.tensor([10, 20, 30, 40, 50], dtype=torch.uint8)[:, None, None, None]
    (worst, second) = show(classifier, test, NAMES, 12)["test/mistakes"].data
    assert np.unique(worst[5].image) == [50]
    assert np.unique(second[5].image) == [20]


def test_images_that_are_gone_are_one_warning(warnings, monkeypatch):
    def gone(self, draws, transform):
        raise ImageError("no such file")

    monkeypatch.setattr(StoredImages, "batch", gone)
    mistakes = show(*after_a_test(), NAMES, 16)["test/mistakes"]
    assert [row[1:3] for row in mistakes.data] == [["owl", "cat"], ["cat", "dog"]]
    assert "image" not in mistakes.columns
    assert warnings() == ["W&B shows the worst mistakes without images: no such file"]


def test_a_net_without_maps_is_one_warning(warnings, monkeypatch):
    monkeypatch.setattr("crescendo.wandb_run.results.class_maps", None)
    monkeypatch.setattr(
        "crescendo.wandb_run.results._maps", lambda *_: (_ for _ in ()).throw(RuntimeError("no"))
    )
    mistakes = show(*after_a_test(), NAMES, 16)["test/mistakes"]
    assert mistakes.columns[5:] == ["image"]
    assert warnings() == ["W&B shows the worst mistakes without class activation maps: no"]


def test_without_matplotlib_the_extra_is_named(warnings, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    mistakes = show(*after_a_test(), NAMES, 16)["test/mistakes"]
    assert mistakes.columns[5:] == ["image"]
    (warning,) = warnings()
    assert warning.endswith('maps: class activation maps need pip install "crescendo[plot]".')


def test_a_test_without_mistakes_has_an_empty_table(warnings):
    classifier, test = after_a_test()
    classifier.answers = classifier.answers._replace(answers=classifier.answers.labels)
    assert show(classifier, test, NAMES, 16)["test/mistakes"].data == []
    assert warnings() == []


def test_every_class_has_its_row():
    classifier, test = after_a_test(classes=101)
    classifier.confusion_matrix = torch.eye(101, dtype=torch.int64)
    shown = show(classifier, test, [str(number) for number in range(101)], 16)
    assert len(shown["test/classes"].data) == 101


def test_many_classes_have_no_chart():
    names = [str(number) for number in range(101)]
    shown = show(*after_a_test(classes=101), names, 16)
    assert "test/confusion_matrix" not in shown
    assert len(shown["test/classes"].data) == 3
    assert len(shown["test/confusions"].data) == 2
