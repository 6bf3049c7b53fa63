"""Every recipe of conf/experiment: what its paper says, and a step of it at its smallest resolution."""

import math

import lightning as L
import pytest
import torch
import yaml
from commands import REPOSITORY

from crescendo.analysis.plan import check_net_follows
from crescendo.config import validate
from crescendo.experiment import build_classifier, build_curriculum, build_data, build_net
from crescendo.targets import build, check_arguments

EXPERIMENTS = sorted(path.stem for path in (REPOSITORY / "conf" / "experiment").glob("*.yaml"))
IMAGENET = 1_281_167


def recipe(configuration, image_folder, name, *overrides):
    """The experiment with images made up instead of its own: as large as its data set's, and few."""
    config = configuration(f"experiment={name}", *overrides)
    if config.data.get("root") is not None or config.data.name in ("folder", "imagenet"):
        config.data.root = str(image_folder)
    config.data.source = {
        "_target_": "crescendo.data.sources.synthetic",
        "samples": 32,
        "resolution": 32,
        "num_classes": 4,
        "in_channels": config.data.in_channels,
    }
    config.data.num_classes, config.data.class_names = 4, None
    config.data.batch_size, config.data.eval_batch_size, config.data.num_workers = 2, 2, 0
    config.data.val_fraction = 0.25
    config.weights = None
    if config.finetuning.method != "none":
        config.weights = str(image_folder.parent / "weights.pth")
        torch.save(build_net(config).state_dict(), config.weights)
    validate(config)
    check_arguments(config)
    return config


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_recipe_takes_a_step_at_its_smallest_resolution(name, configuration, image_folder):
    config = recipe(configuration, image_folder, name)
    classifier = build_classifier(config).train()
    as_written = build_curriculum(config, classifier.net)
    check_net_follows(classifier.net, as_written)
    assert as_written.epochs == config.trainer.max_epochs
    callbacks = [build(node, f"callbacks.{key}") for key, node in config.callbacks.items()]
    assert all(isinstance(each, L.Callback) for each in callbacks)
    smallest = classifier.net.min_resolution
    config.curriculum.resolution = {"start": smallest, "end": smallest}
    config.curriculum.stages, config.curriculum.split = 1, "even"
    config.curriculum.evaluation_resolution = None
    curriculum = build_curriculum(config, classifier.net)
    data, _ = build_data(config, curriculum)
    classifier.enter(curriculum.at(0))
    weights = list(classifier.net.parameters())[-2:]  # its head's
    before = [each.detach().clone() for each in weights]
    batch = next(iter(data.train_dataloader()))
    assert batch.images.shape == (2, config.data.in_channels, smallest, smallest)
    loss = classifier.training_step(batch, 0)
    loss.backward()
    classifier.make_optimizer().step()
    assert math.isfinite(loss.item())
    assert all(bool(each.isfinite().all()) for each in weights)
    assert not all(torch.equal(*pair) for pair in zip(before, weights, strict=True))


def test_recipes_choose_options_and_leave_their_settings_alone():
    """So regularization=none trains with none, and optimizer=adamw is AdamW, whatever the recipe."""
    for name in EXPERIMENTS:
        own = yaml.safe_load((REPOSITORY / "conf" / "experiment" / f"{name}.yaml").read_text())
        others = set(own) - {"defaults", "name", "loss", "weights", "data", "trainer", "hydra"}
        assert all("_target_" in own[group] for group in others), name  # one of its own, whole
        assert set(own.get("data", {})) <= {"batch_size"}, name
        assert set(own.get("trainer", {})) <= {"max_epochs"}, name


def test_none_trains_with_none_whatever_the_recipe(configuration):
    for name in ("resnet50_a2", "efficientnetv2_s_paper"):
        config = configuration(f"experiment={name}", "regularization=none")
        assert set(config.regularization.values()) == {0.0}


@pytest.mark.parametrize(
    ("name", "epochs", "batch_size", "rates"),
    [  # epoch: learning rate, from the papers
        ("lenet5_mnist", 20, 8, {0: 1, 2.5: 0.4, 5.5: 0.2, 8.5: 0.1, 19: 0.02}),  # shares of the highest
        ("alexnet_imagenet", 90, 128, {0: 1e-2, 23: 1e-3, 46: 1e-4, 68: 1e-5}),
        ("vgg16_imagenet", 74, 256, {0: 1e-2, 73: 1e-5}),
        ("googlenet_imagenet", 255, 32, {0: 1e-2, 7.9: 1e-2, 8.1: 9.6e-3, 16.1: 9.216e-3}),
        ("resnet50_imagenet", 90, 256, {0: 0.1, 29.9: 0.1, 30.1: 1e-2, 60.1: 1e-3, 80.1: 1e-4}),
        ("resnet110_cifar10", 182, 128, {0.5: 0.05, 2: 0.1, 91.1: 1e-2, 136.6: 1e-3}),
        ("se_resnet50_imagenet", 100, 1024, {0: 0.6, 30.1: 0.06, 60.1: 6e-3, 90.1: 6e-4}),
        ("senet154_imagenet", 100, 1024, {0: 0.6, 99: 6e-4}),
        ("mobilenet_v2_imagenet", 300, 96, {0: 0.045, 1.5: 0.0441, 2.5: 0.043218}),
        # warm-up to .256; 6 / 2.4 = 2.5, so .97^2
        ("efficientnet_b0_imagenet", 350, 4096, {2.5: 0.128, 5.01: 0.2408704, 7.21: 0.233644288}),
        ("efficientnetv2_s_paper", 350, 4096, {2.5: 0.128, 5.01: 0.2408704, 7.21: 0.233644288}),
        ("efficientnetv2_l_released", 350, 4096, {2.5: 0.128, 7.21: 0.233644288}),
        ("resnet50_a2", 300, 2048, {2.5: 2.5e-3, 5: 5e-3, 152.5: 2.5e-3}),
        ("resnet50_a3", 100, 2048, {2.5: 4e-3, 5: 8e-3, 52.5: 4e-3}),
        ("efficientnetv2_s_cifar10", 115, 512, {0: 1e-3, 57.5: 5e-4, 115: 0}),
    ],
)
def test_lengths_batches_and_learning_rates_are_those_of_the_papers(
    name, epochs, batch_size, rates, configuration
):
    config = configuration(f"experiment={name}")
    assert (config.trainer.max_epochs, config.data.batch_size) == (epochs, batch_size)

    schedule = build(config.lr_schedule, "lr_schedule")
    highest = 1.0 if name == "lenet5_mnist" else config.optimizer.lr
    seen = {epoch: highest * schedule.factor(epoch, epochs) for epoch in rates}
    assert seen == pytest.approx(rates, rel=1e-6, abs=1e-12)


def test_a_rate_for_256_images_follows_the_batch(configuration):
    config = configuration("experiment=resnet50_imagenet", "data.batch_size=1024")
    assert config.optimizer.lr == pytest.approx(0.4)
    config.data.batch_size = 64
    assert config.optimizer.lr == pytest.approx(0.025)
    assert configuration("experiment=resnet50_imagenet", "optimizer.lr=0.3").optimizer.lr == 0.3


def test_the_steps_of_the_papers(configuration):
    """He et al.: 64,000 steps; Tan & Le 2021: 10,000; Caffe's GoogLeNet: 10 million, VGG: 370,000."""
    steps = {}
    for name, images in {
        "resnet110_cifar10": 45_000,
        "efficientnetv2_s_cifar10": 45_000,
        "googlenet_imagenet": round(0.98 * IMAGENET),
        "vgg16_imagenet": IMAGENET,
    }.items():
        config = configuration(f"experiment={name}")
        steps[name] = config.trainer.max_epochs * (images // config.data.batch_size)
    assert steps["resnet110_cifar10"] == pytest.approx(64_000, rel=0.01)
    assert steps["efficientnetv2_s_cifar10"] == 10_005
    assert steps["googlenet_imagenet"] == pytest.approx(10_000_000, rel=0.01)
    assert steps["vgg16_imagenet"] == pytest.approx(370_000, rel=0.01)
