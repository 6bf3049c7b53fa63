import sys

import pytest
import torch
from commands import REPOSITORY, TINY, crescendo
from PIL import Image

from crescendo.analysis.preview import batches_as_seen, draw_preview
from crescendo.composing import find_config_directory
from crescendo.devices import trainer_settings
from crescendo.errors import UserError
from crescendo.experiment import prepare
from crescendo.planning import plan_training, preview_training
from crescendo.probe import probe

ALL_ON = ("regularization=strong", "regularization.mixup=0.4", "regularization.random_erasing=0.9")


def test_the_batch_is_what_the_net_gets(configuration):
    config = configuration(*TINY, *ALL_ON)
    experiment = prepare(config)
    (stage, images), (last, larger) = batches_as_seen(experiment.classifier, experiment.data, count=5)
    assert (stage.resolution, images.shape, larger.shape[-1]) == (28, (5, 3, 28, 28), 32)
    assert last.first_epoch == 1
    classifier, got = experiment.classifier, []
    classifier.net.register_forward_pre_hook(lambda net, inputs: got.append(inputs[0].clone()))
    probe(
        trainer_settings(config.trainer), [], lambda _: [], classifier, experiment.data, experiment.curriculum
    )
    first = (got[0][:5] * classifier.std + classifier.mean) / 255
    assert torch.equal(images, first.clamp(0, 1))


def test_of_many_stages_six_are_shown_with_both_ends(configuration):
    config = configuration(*TINY, "curriculum.stages=13", "trainer.max_epochs=26")
    experiment = prepare(config)
    batches = batches_as_seen(experiment.classifier, experiment.data, count=1)
    assert [stage.index for stage, _ in batches] == [0, 2, 4, 7, 9, 12]


def test_the_curves_are_those_of_the_curriculum(configuration):
    config = configuration(*TINY, "regularization.mixup={start: 0, end: 0.5}", "trainer.max_epochs=3")
    experiment = prepare(config)
    batches = batches_as_seen(experiment.classifier, experiment.data, count=2)
    figure = draw_preview("title", experiment.curriculum, [0.1, 0.2, 0.05], batches)
    axes = {axis.get_title(): axis for axis in figure.axes if axis.get_title()}
    assert list(axes) == ["resolution (px)", "learning rate", "mixup", "label smoothing"]
    curves = {name: axis.patches[-1].get_data() for name, axis in axes.items() if name != "learning rate"}
    assert list(curves["resolution (px)"].values) == [28, 28, 32]
    assert list(curves["mixup"].values) == [0, 0, 0.5]
    assert list(axes["learning rate"].lines[0].get_ydata()) == [0.1, 0.2, 0.05]


def test_a_budget_is_drawn_as_it_trains(configuration):
    typed = [override for override in TINY if "max_epochs" not in override]
    figure = preview_training(configuration(*typed, "budget=700MMAC"), [], images=1)
    epochs = (
        next(axis for axis in figure.axes if axis.get_title() == "resolution (px)").patches[-1].get_data()
    )
    assert (
        len(epochs.values) == plan_training(configuration(*typed, "budget=700MMAC"), [])[0].curriculum.epochs
    )
    with pytest.raises(UserError, match="budget=20min: a preview measures nothing"):
        preview_training(configuration(*typed, "budget=20min"), [], images=1)


def test_without_matplotlib_the_extra_is_named(configuration, monkeypatch):
    experiment = prepare(configuration(*TINY))
    batches = batches_as_seen(experiment.classifier, experiment.data, count=1)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r"pip install \"crescendo\[plot\]\""):
        draw_preview("title", experiment.curriculum, [0.1], batches)


def test_the_project_is_found_from_below_it_and_else_the_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config_directory() == REPOSITORY / "conf"
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "train.yaml").touch()
    (tmp_path / "train.py").touch()
    (tmp_path / "deep" / "down").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "down")
    assert find_config_directory() == tmp_path / "conf"
    assert find_config_directory(REPOSITORY / "conf") == REPOSITORY / "conf"
    with pytest.raises(UserError, match=r"has no train\.yaml"):
        find_config_directory(tmp_path)


def test_nowhere_near_a_project_says_where_to_go(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("crescendo.__file__", str(tmp_path / "site-packages" / "crescendo" / "__init__.py"))
    with pytest.raises(UserError, match="add --config-dir"):
        find_config_directory()


def test_the_command_writes_the_picture_and_nothing_else(tmp_path):
    process = crescendo("preview", *TINY, "regularization=strong", "--out", "p.png", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert process.stdout.split() == ["p.png"]
    assert [path.name for path in tmp_path.iterdir()] == ["p.png"]
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.width > 1000


def test_a_wrong_override_is_the_message_of_training(tmp_path):
    process = crescendo("preview", "model=resnet21", cwd=tmp_path)
    assert process.returncode == 2
    assert "model=resnet21: there is no such option. Did you mean" in process.stderr
