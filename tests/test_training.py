"""Building an experiment from its configuration, without training it."""

import shlex

import pytest
import torch
from commands import REPOSITORY

from crescendo.config import validate
from crescendo.errors import UserError
from crescendo.experiment import build_classifier, prepare


def weights(config):
    return build_classifier(config).state_dict()


def test_the_seed_decides_the_first_weights(configuration):
    one, same, other = (weights(configuration(f"seed={seed}")) for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["net.head.weight"], other["net.head.weight"])


def test_the_default_experiment_is_as_the_readme_says(configuration):
    experiment = prepare(configuration())
    assert [stage.resolution for stage in experiment.curriculum.plan] == [16, 24, 32]
    assert [stage.epochs for stage in experiment.curriculum.plan] == [3, 3, 3]
    assert experiment.plan.parameters == 269_434
    data = experiment.data
    assert [len(images) for images in (data.training, data.validation, data.test)] == [1293, 144, 360]
    assert experiment.plan.steps_per_epoch == 40
    assert experiment.class_names == [str(digit) for digit in range(10)]


CURRICULA = sorted(path.stem for path in (REPOSITORY / "conf" / "curriculum").glob("*.yaml"))


def test_smoke_trains_all_layers_behind_the_head(configuration, tmp_path):
    config = configuration("debug=smoke", "finetuning=head_first", f"weights={tmp_path}")
    assert config.trainer.max_epochs == config.finetuning.head_epochs + 1 == 6


@pytest.mark.parametrize("curriculum", CURRICULA)
def test_smoke_has_an_epoch_for_each_stage(curriculum, configuration):
    experiment = prepare(configuration(f"curriculum={curriculum}", "debug=smoke"), shapes_only=True)
    assert len(experiment.plan.stages) == experiment.curriculum.epochs


def test_a_knob_without_owner_is_recorded_unless_it_was_typed(configuration):
    overrides = ["model=plain20", "regularization=strong"]
    config = configuration(*overrides)
    assert prepare(config, overrides).plan.not_applied == ("dropout", "drop_path")
    with pytest.raises(UserError, match=r"regularization\.drop_path was given, but plain20 has no drop path"):
        prepare(config, [*overrides, "regularization.drop_path=0.1"])


def test_too_few_classes_are_refused(configuration):
    config = configuration("data.num_classes=8", "data.class_names=null")
    validate(config)
    with pytest.raises(UserError, match=r"digits has 10 classes, data\.num_classes=8"):
        prepare(config)


def test_class_names_must_be_as_many_as_classes(configuration):
    with pytest.raises(UserError, match=r"data\.class_names has 2 names for data\.num_classes=10"):
        prepare(configuration("data.class_names=[a,b]"))


def test_the_readme_speaks_of_options_that_exist(configuration):
    """Every `python train.py` line of the README composes and validates."""
    from commands import REPOSITORY

    lines = [
        shlex.split(line, comments=True)[2:]
        for line in (REPOSITORY / "README.md").read_text().splitlines()
        if line.startswith("python train.py")
    ]
    assert len(lines) >= 8
    for words in lines:
        overrides = [word for word in words if word not in ("-m", "--help")]
        swept = "-m" in words or any(word.startswith("sweep=") for word in words)
        overrides = [word.split(",")[0].replace("tag(log", "0.1") if swept else word for word in overrides]
        overrides = [word.replace("data.root=photos", "data.root=tests") for word in overrides]
        of_files = {"data=folder", "data=packed"} & set(overrides)
        validate(configuration(*overrides, *(["data.num_classes=2"] if of_files else [])))


def test_the_arms_of_the_ablation_differ_in_what_they_say(configuration):
    plans, smoothing = {}, {}
    for arm in ("fixed", "size_only", "size_and_regularization", "fixed_equal_compute"):
        config = configuration("experiment=progressive_ablation", f"arm={arm}", "data=synthetic")
        assert config.arm == arm
        experiment = prepare(config)
        plans[arm] = [(stage.epochs, stage.resolution) for stage in experiment.curriculum.plan]
        smoothing[arm] = [stage.knobs["label_smoothing"] for stage in experiment.curriculum.plan]
        if arm == "size_and_regularization":
            spent = experiment.plan.cost * 15
    drawn = prepare(configuration("experiment=progressive_ablation", "arm=random_size", "data=synthetic"))
    sizes = [stage.resolution for stage in drawn.curriculum.plan]
    assert len(sizes) == 15
    assert {16, 28} < set(sizes) <= {16, 20, 24, 28}
    assert sizes != sorted(sizes)
    assert plans == {
        "fixed": [(15, 28)],
        "size_only": [(5, 16), (5, 24), (5, 28)],
        "size_and_regularization": [(5, 16), (5, 24), (5, 28)],
        "fixed_equal_compute": [(10, 28)],
    }
    assert smoothing == {
        "fixed": [0.1],
        "size_only": [0.1, 0.1, 0.1],
        "size_and_regularization": [0.0, 0.05, 0.1],
        "fixed_equal_compute": [0.1],
    }
    assert spent == pytest.approx(10, rel=0.05)
