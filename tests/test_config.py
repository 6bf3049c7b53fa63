"""Every option of every group composes, validates and fits its target; every mistake is named."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf, open_dict

from crescendo.config import validate
from crescendo.data.packing import build_pack, plan_pack
from crescendo.errors import UserError
from crescendo.experiment import prepare
from crescendo.targets import build, check_arguments, check_targets, users_mistakes

REPOSITORY = Path(__file__).parents[1]
GROUPS = ("data", "model", "regularization", "curriculum", "scaling", "optimizer", "lr_schedule", "trainer")
GROUPS += ("finetuning", "callbacks", "logger", "arm", "debug")
OPTIONS = [
    f"{group}={path.stem}"
    for group in GROUPS
    for path in sorted((REPOSITORY / "conf" / group).glob("*.yaml"))
]


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_and_fits(option, configuration, image_folder, tmp_path):
    if option == "data=packed":
        build_pack(plan_pack(image_folder, (32,), 90, True), tmp_path / "pack", workers=1)
    overrides = [option]
    if option.startswith(("data=folder", "data=imagenet")):
        overrides += [f"data.root={image_folder}"]
    if option == "data=packed":
        overrides += [f"data.root={tmp_path / 'pack'}"]
    if option.startswith("finetuning="):
        overrides += ["weights=earlier.pth"]
    config = configuration(*overrides)
    validate(config)
    check_arguments(config)


def test_a_balanced_sampler_is_what_the_training_draws_by(configuration):
    """The digits have 125 to 131 training images of a class, and 40 batches of 32 an epoch."""
    config = configuration("data.sampler=balanced")
    validate(config)
    drawn = [batch.labels for batch in prepare(config, shapes_only=True).data.train_dataloader()]
    assert torch.cat(drawn).bincount().tolist() == [128] * 10


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.max_epochs=abc", "trainer.max_epochs=abc: should be a valid integer"),
        ("trainer.max_epochs=0", "trainer.max_epochs=0: should be greater than 0"),
        ("data.batch_size=-3", "data.batch_size=-3: should be greater than 0"),
        ("data.val_fraction=1", "data.val_fraction=1: should be less than 1"),
        ("data.sampler=weighted", "data.sampler=weighted: should be 'uniform', 'balanced' or 'repeated'"),
        ("data.fit=squeeze", "data.fit=squeeze: should be 'resize' or 'pad'"),
        ("data.mean=[0.5,0.5]", "data.mean has 2 values for data.in_channels=1"),
        ("data.augmentation.crop_area=[0.5,0.1]", "must be two rising shares of the area"),
        ("regularization.mixup=high", "regularization.mixup=high: must be a number or a range"),
        ("regularization.mixup=published", "must be a number or a range"),
        ("regularization.cutmix={start:0}", "a range has start and end, this one has start"),
        ("curriculum.resolution.start=16.5", "must be whole pixels, 1 or more, not 16.5"),
        ("curriculum.interpolation=cubic", "should be 'linear' or 'geometric'"),
        ("optimizer.lr=-1", "optimizer.lr=-1: should be greater than 0"),
        ("scaling.phi=1", "scaling.phi=1: scaling=none scales nothing"),
        ("scaling.phi=much", "scaling.phi=much: should be a valid number"),
        ("+scaling.delta=1", "scaling.delta is not a setting"),
        ("name=a/b", "name=a/b"),
        ("model.num_classes=3", "model.num_classes=3 does not fit data.num_classes=10"),
        ("model.in_channels=3", "model.in_channels=3 does not fit data.in_channels=1"),
        ("~callbacks.checkpoint", "callbacks.checkpoint is missing"),
        ("callbacks.checkpoint.monitor=val/acuracy", "Did you mean val/accuracy"),
        ("trainer.limit_train_batches=0", "trainer.limit_train_batches=0: should be greater than 0"),
        ("trainer.limit_test_batches=0.0", "trainer.limit_test_batches=0.0: should be greater than 0"),
        ("model._target_=os.system", "model._target_=os.system: refused"),
        ("+callbacks.mine={_target_:subprocess.run}", "callbacks.mine._target_=subprocess.run: refused"),
    ],
)
def test_a_bad_value_is_named(override, message, configuration):
    with pytest.raises(UserError) as caught:
        validate(configuration(override))
    assert message in str(caught.value)


def test_graphs_do_not_accumulate(configuration):
    parts = "trainer.accumulate_grad_batches=4"
    with pytest.raises(
        UserError, match=r"compile=reduce-overhead .*accumulate_grad_batches=4: give compile=true"
    ):
        validate(configuration("compile=reduce-overhead", parts))
    validate(configuration("compile=true", parts))
    validate(configuration("compile=reduce-overhead"))


def test_a_missing_value_is_asked_for(configuration):
    with pytest.raises(UserError, match=r"data\.root must be given: data\.root=<value>"):
        validate(configuration("data=folder"))


def test_the_classes_of_a_missing_folder_are_explained(configuration, tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match=r"is not a directory\. Did you mean photos\?"):
        validate(configuration("data=folder", f"data.root={tmp_path / 'fotos'}"))


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("data", "data.batchsize is not a setting. Did you mean batch_size"),
        ("", "sed is not a setting. Did you mean seed?"),
    ],
)
def test_a_typo_that_composes_silently_is_found(place, message, configuration):
    """Hydra lets an experiment file add any key."""
    config = configuration()
    with open_dict(config):
        node = OmegaConf.select(config, place) if place else config
        node["batchsize" if place else "sed"] = 3
    with pytest.raises(UserError) as caught:
        validate(config)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["+model.widht=3"],
            "model.widht is not an argument of crescendo.models.resnet_cifar.resnet20. Did you mean width?",
        ),
        (["model.width=abc"], "model.width=abc: should be a valid integer"),
        (["model._target_=crescendo.models.resnet_cifar.resnet21"], "does not exist"),
        (["+trainer.epochs=3"], "trainer.epochs is not an argument of lightning.Trainer"),
        (
            ["callbacks=ema", "callbacks.ema.decay=often"],
            "callbacks.ema.decay=often: should be a valid number",
        ),
    ],
)
def test_arguments_are_held_against_the_target(overrides, message, configuration):
    config = configuration(*overrides)
    validate(config)
    with pytest.raises(UserError) as caught:
        check_arguments(config)
    assert message in str(caught.value)


def test_targets_are_refused_before_anything_runs():
    with pytest.raises(UserError, match=r"a\[1\]\.b\._target_=pickle\.loads: refused"):
        check_targets({"a": [{}, {"b": {"_target_": "pickle.loads"}}]})


def test_a_users_mistake_inside_a_target_stays_plain(configuration):
    config = configuration("lr_schedule=one_cycle", "lr_schedule.peak=2")
    with pytest.raises(UserError, match=r"lr_schedule\.peak=2: must lie between 0 and 1"):
        build(config.lr_schedule, "lr_schedule")


def test_what_a_target_refuses_is_the_users_mistake(configuration):
    with pytest.raises(UserError, match="model: width=0"):
        build(configuration("model.width=0").model, "model")
    with pytest.raises(UserError, match="optimizer: Invalid momentum value: -1"):
        prepare(configuration("optimizer.momentum=-1"))


def test_a_bug_in_a_target_stays_a_bug():
    with pytest.raises(ZeroDivisionError), users_mistakes("model"):
        raise ZeroDivisionError


def test_an_argument_that_we_give_cannot_be_typed(configuration):
    with pytest.raises(UserError, match=r"curriculum\.epochs cannot be set: crescendo gives it"):
        prepare(configuration("+curriculum.epochs=77"))
