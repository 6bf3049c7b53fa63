"""Plans that are measured, and trainings whose length a budget gives."""

import csv
import json
import time

import pytest
import torch
from commands import TINY, only_run, train
from omegaconf import OmegaConf

from crescendo import batch_norm
from crescendo.classifier import ImageClassifier
from crescendo.curriculum.budget import Budget
from crescendo.devices import trainer_settings
from crescendo.errors import UserError
from crescendo.experiment import prepare
from crescendo.planning import plan_training
from crescendo.probe import Rehearsal, probe

# An image through lenet5_modern at 28 px and at 32 px, in MACs; 4 steps of 32 images an epoch.
TRAINING = 4 * 32 * 3


def measured(config):
    experiment = prepare(config)
    seen = []
    step = experiment.classifier.training_step

    def watched(batch, batch_idx):
        knobs = experiment.classifier.stage.knobs
        seen.append((batch.images.shape[-1], knobs["label_smoothing"], knobs["randaugment"]))
        return step(batch, batch_idx)

    experiment.classifier.training_step = watched
    curriculum, data = experiment.curriculum, experiment.data
    speeds, _ = probe(
        trainer_settings(config.trainer), [], lambda _: [], experiment.classifier, data, curriculum
    )
    return speeds, seen


def test_ten_steps_of_each_stage_are_measured_behind_three(configuration, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    knobs = (
        "regularization.label_smoothing={start: 0, end: 0.1}",
        "regularization.randaugment={start: 0, end: 4}",
    )
    config = configuration(*TINY, *knobs, "data.source.samples=640", "trainer.max_epochs=8")
    speeds, seen = measured(config)
    assert seen == [(28, 0.0, 0.0)] * 13 + [(32, 0.1, 4.0)] * 13
    assert [speed.stage.resolution for speed in speeds.stages] == [28, 32]
    assert speeds.steps == 10
    assert all(speed.step_seconds > 0 and speed.peak_bytes > 2**20 for speed in speeds.stages)
    assert speeds.validation_seconds > 0
    assert list(tmp_path.iterdir()) == []


def test_a_short_epoch_is_measured_as_far_as_it_goes(configuration):
    config = configuration(*TINY, "trainer.accumulate_grad_batches=2", "trainer.limit_val_batches=0")
    speeds, seen = measured(config)
    assert [resolution for resolution, *_ in seen] == [28] * 8 + [32] * 8  # two parts a step
    assert speeds.steps == 1
    assert speeds.validation_seconds == 0


def test_what_is_measured_is_what_trains(configuration, monkeypatch):
    """Compiled where the training is, with the statistics and validations that it is to have."""
    compiled, refreshed, validated = [], [], []
    step = ImageClassifier.stage_validation_step
    monkeypatch.setattr(torch.nn.Module, "compile", lambda net, **_: compiled.append(type(net).__name__))
    monkeypatch.setattr(batch_norm, "refresh", lambda *_: refreshed.append(time.sleep(0.3)) or 32)
    monkeypatch.setattr(
        ImageClassifier, "stage_validation_step", lambda *given: validated.append(1) or step(*given)
    )
    net = ("model=resnet20", "model.width=4", "curriculum.resolution.start=16")
    added = ("compile=true", "bn_refresh=1", "validate_stage=true")
    config = configuration(*TINY, *net, *added, "plan=probe")
    _, speeds, *_ = plan_training(config, [])
    assert compiled == ["ResNetCifar"]
    assert len(refreshed) == 2  # one a stage
    assert validated  # at the first stage's own resolution
    assert 0.3 < speeds.validation_seconds < 10


def test_of_many_stages_one_for_each_resolution_is_rehearsed(configuration):
    config = configuration(*TINY, "curriculum.stages=20", "trainer.max_epochs=40", "regularization=strong")
    curriculum = prepare(config).curriculum
    stages = Rehearsal.of(curriculum).plan
    assert [(stage.resolution, stage.first_epoch, stage.epochs) for stage in stages] == [
        (28, 0, 1),
        (32, 1, 1),
    ]
    assert stages[0].knobs == curriculum.plan[9].knobs


def macs_of(config):
    return prepare(config, shapes_only=True).plan.macs


def test_a_budget_of_macs_gives_the_epochs(configuration):
    small, large = macs_of(configuration(*TINY))
    affordable = TRAINING * (3 * small + 2 * large)  # five epochs, three of them at 28 px
    without = [override for override in TINY if "max_epochs" not in override]
    config = configuration(*without, "plan=true", f"budget={affordable / 1e6:.6f}MMAC")
    experiment, speeds, *_ = plan_training(config, [])
    assert config.trainer.max_epochs == 5
    assert [stage.epochs for stage in experiment.plan.stages] == [3, 2]
    assert speeds is None
    config = configuration(*without, "plan=true", f"budget={affordable / 1e6 - 0.001:.6f}MMAC")
    plan_training(config, [])
    assert config.trainer.max_epochs == 4


def test_more_stages_and_warm_up_than_the_default_epochs_are_no_obstacle(configuration):
    settings = ("curriculum.stages=12", "lr_schedule.warmup_epochs=13.5", "plan=true", "budget=1PMAC")
    config = configuration("model=lenet5_modern", *settings)
    experiment = plan_training(config, []).experiment
    assert len(experiment.plan.stages) == 12
    assert config.trainer.max_epochs > 14


def test_a_limit_counts_parts_of_batches(configuration):
    config = configuration(*TINY, "trainer.limit_train_batches=3", "trainer.accumulate_grad_batches=2")
    assert prepare(config, shapes_only=True).plan.steps_per_epoch == 2


def test_a_budget_that_is_too_small_is_refused_with_the_smallest(configuration):
    small, large = macs_of(configuration(*TINY))
    least = TRAINING * (small + large)
    with pytest.raises(UserError, match="budget=1MMAC is too small for 2 epochs") as refusal:
        plan_training(configuration(*TINY, "plan=true", "budget=1MMAC"), [])
    offered = Budget.parse(str(refusal.value).split("give budget=")[1].split(" ")[0])
    assert least <= offered.amount <= 1.01 * least


@pytest.mark.parametrize("length", ["trainer.max_epochs=4", "trainer.max_steps=7"])
def test_a_length_beside_a_budget_is_refused(length, tmp_path):
    process = train("budget=1TMAC", length, "plan=true", cwd=tmp_path)
    assert process.returncode == 2
    assert "leave one of them out" in process.stderr


def test_a_budget_trains_as_if_its_epochs_had_been_typed(tmp_path, uninterrupted):
    typed = [override for override in TINY if "max_epochs" not in override]
    budget = "budget=1.2GMAC"
    process = train(*typed, budget, "logger=csv", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    run = only_run(tmp_path)
    config = OmegaConf.load(run / "config.yaml")
    epochs = config.trainer.max_epochs
    assert f"trainer.max_epochs={epochs}: the most that {budget} pays for" in process.stdout
    with (run / "metrics.csv").open() as file:
        trained = {int(row["epoch"]) for row in csv.DictReader(file) if row["curriculum/stage"]}
    assert trained == set(range(epochs))
    other = uninterrupted(*typed, f"trainer.max_epochs={epochs}", "logger=csv")
    weights, expected = (
        torch.load(place / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for place in (run, other)
    )
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_a_resumed_run_keeps_the_epochs_that_its_budget_gave(tmp_path):
    typed = [override for override in TINY if "max_epochs" not in override]
    assert train(*typed, "budget=700MMAC", "logger=csv", cwd=tmp_path).returncode == 0
    run = only_run(tmp_path)
    epochs = OmegaConf.load(run / "config.yaml").trainer.max_epochs
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"status": "interrupted"}))
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("budget: 700MMAC", "budget: 900GMAC"))  # for thousands
    process = train(f"resume={run}", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert OmegaConf.load(run / "config.yaml").trainer.max_epochs == epochs


@pytest.mark.slow
def test_a_training_takes_the_time_of_its_budget(tmp_path):
    budget = 60
    process = train("model=resnet20", f"budget={budget}s", "logger=csv", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    run = only_run(tmp_path)
    seconds = json.loads((run / "summary.json").read_text())["seconds"]
    epochs = OmegaConf.load(run / "config.yaml").trainer.max_epochs
    assert epochs >= 3
    assert 0.75 * budget - seconds / epochs < seconds < 1.25 * budget
