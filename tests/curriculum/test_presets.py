"""The options of conf/curriculum and conf/regularization, held against lists by hand."""

import pytest
import torch
from torch import nn

from crescendo.analysis.plan import check_net_follows
from crescendo.classifier import ImageClassifier
from crescendo.data import Batch
from crescendo.errors import UserError
from crescendo.experiment import build_curriculum
from crescendo.models import create_model
from crescendo.optim import Constant

EVALUATION = {"s": 384, "m": 480, "l": 480}
# Tan & Le 2021, Table 6, and the released code: px, RandAugment, mixup, cutmix, dropout of the four stages.
STAGES = {
    "s_paper": [
        (128, 5, 0, 0, 0.1),
        (185, 8.3333, 0, 0, 0.16667),
        (243, 11.6667, 0, 0, 0.23333),
        (300, 15, 0, 0, 0.3),
    ],
    "m_paper": [
        (128, 5, 0, 0, 0.1),
        (212, 10, 0.066667, 0, 0.2),
        (296, 15, 0.133333, 0, 0.3),
        (380, 20, 0.2, 0, 0.4),
    ],
    "l_paper": [
        (128, 5, 0, 0, 0.1),
        (212, 11.6667, 0.166667, 0, 0.233333),
        (296, 18.3333, 0.333333, 0, 0.366667),
        (380, 25, 0.5, 0, 0.5),
    ],
    "s_released": [
        (171, 5, 0, 0, 0.2),
        (214, 6.66667, 0, 0, 0.2),
        (257, 8.33333, 0, 0, 0.2),
        (300, 10, 0, 0, 0.2),
    ],
    "m_released": [
        (192, 5, 0, 0, 0.3),
        (256, 8.33333, 0.066667, 0.066667, 0.3),
        (320, 11.6667, 0.133333, 0.133333, 0.3),
        (384, 15, 0.2, 0.2, 0.3),
    ],
    "l_released": [
        (192, 5, 0, 0, 0.4),
        (256, 10, 0.166667, 0.166667, 0.4),
        (320, 15, 0.333333, 0.333333, 0.4),
        (384, 20, 0.5, 0.5, 0.4),
    ],
}


def curriculum_of(config, net=None):
    return build_curriculum(config, net or create_model("efficientnet_v2_s", width=0.25, depth=0.25))


def resolutions(curriculum):
    return [curriculum.at(epoch).resolution for epoch in range(curriculum.epochs)]


@pytest.mark.parametrize("preset", STAGES)
def test_the_stages_of_efficientnet_v2(preset, configuration):
    name = f"efficientnetv2_{preset}"
    config = configuration(f"curriculum={name}", f"regularization={name}", "trainer.max_epochs=350")
    curriculum = curriculum_of(config)
    knobs = ("randaugment", "mixup", "cutmix", "dropout")
    seen = [(stage.resolution, *(stage.knobs[knob] for knob in knobs)) for stage in curriculum.plan]
    assert [row[0] for row in seen] == [row[0] for row in STAGES[preset]]
    for row, expected in zip(seen, STAGES[preset], strict=True):
        assert row == pytest.approx(expected, rel=1e-4)
    assert [stage.epochs for stage in curriculum.plan] == [88, 87, 88, 87]
    assert curriculum.evaluation_resolution == EVALUATION[preset[0]]
    for stage in curriculum.plan:
        constant = {"drop_path": 0.2, "label_smoothing": 0.1, "random_erasing": 0}
        assert {knob: stage.knobs[knob] for knob in constant} == constant


def test_the_experiment_joins_the_pair_and_its_net(configuration):
    for preset in STAGES:
        name = f"efficientnetv2_{preset}"
        config = configuration(f"experiment={name}")
        assert config.model._target_.endswith(f"efficientnet_v2_{preset[0]}")
        pair = configuration(f"curriculum={name}", f"regularization={name}")
        assert (config.curriculum, config.regularization) == (pair.curriculum, pair.regularization)


@pytest.mark.parametrize(
    ("curriculum", "epochs", "expected"),
    [
        ("two_stage", 10, [224] * 6 + [256] * 4),
        ("two_stage", 5, [224] * 3 + [256] * 2),
        ("every_epoch", 8, [16, 16, 24, 24, 24, 24, 32, 32]),  # 21.3 and 26.7 are nearest to 24
        ("fixres", 10, [24] * 9 + [32]),
        ("constant", 2, [32, 32]),
        ("progressive", 3, [16, 24, 32]),
        ("to_28px_in_4", 4, [16, 20, 24, 28]),
        ("to_28px", 3, [16, 24, 28]),  # 22 is rounded up to a multiple of 4
    ],
)
def test_resolutions_of_the_options(curriculum, epochs, expected, configuration):
    config = configuration(f"curriculum={curriculum}", f"trainer.max_epochs={epochs}")
    assert resolutions(curriculum_of(config, nn_without_limits())) == expected


def nn_without_limits():
    net = nn.Identity()
    net.min_resolution = 1
    return net


def test_the_random_option_draws_anew_for_each_seed_and_keeps_the_knobs(configuration):
    overrides = ["curriculum=random", "regularization.mixup={start:0.1,end:0.4}", "trainer.max_epochs=40"]
    by_seed = [
        curriculum_of(configuration(*overrides, f"seed={seed}"), nn_without_limits()) for seed in (0, 0, 1)
    ]
    first, again, other = map(resolutions, by_seed)
    assert first == again != other
    assert set(first) == {16, 24, 32}
    assert {stage.knobs["mixup"] for stage in by_seed[0].plan} == {0.4}
    assert by_seed[0].evaluation_resolution == 32


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["curriculum=every_epoch", "curriculum.resolution.start=16", "curriculum.resolution.end=96"],
            "stage 0 uses 16: add curriculum.resolution.start=63",
        ),
        (
            ["curriculum=random", "curriculum.resolution={start:32,end:40}"],
            ": add curriculum.resolution.start=63 curriculum.resolution.end=63",
        ),
        (
            ["curriculum=two_stage", "curriculum.resolution.start=48"],
            "stage 0 uses 48: add curriculum.resolution.start=63",
        ),
        (["curriculum=fixres"], "stage 0 uses 24: add curriculum.resolution.start=63"),
        (
            ["curriculum=fixres", "curriculum.resolution.end=64"],
            "evaluation uses 32: add curriculum.evaluation_resolution=63",
        ),
    ],
)
def test_what_alexnet_cannot_follow_is_refused(overrides, message, configuration):
    alexnet = create_model("alexnet", num_classes=10, in_channels=1)
    with pytest.raises(UserError, match="alexnet needs 63 px or more") as refusal:
        check_net_follows(alexnet, curriculum_of(configuration(*overrides), alexnet))
    assert message in str(refusal.value)


@pytest.mark.parametrize("name", ["alexnet", pytest.param("vgg11", marks=pytest.mark.slow)])
def test_nets_with_fully_connected_heads_train_through_all_stages(name, configuration):
    """One optimizer step of two images in each stage, at its resolution and its knobs."""
    config = configuration(
        f"model={name}",
        "curriculum.resolution={start:auto,end:96}",
        "curriculum.fixres=0.25",
        "trainer.max_epochs=4",
        "regularization=strong",
    )
    torch.manual_seed(0)
    net = create_model(name, num_classes=4, in_channels=1)
    classifier = ImageClassifier(
        net,
        lambda groups: torch.optim.SGD(groups, lr=0.01),
        Constant(),
        mean=[0.5],
        std=[0.25],
        num_classes=4,
    ).train()
    optimizer = classifier.make_optimizer()
    plan = build_curriculum(config, net).plan
    assert [stage.resolution for stage in plan] == {"alexnet": [63, 80, 96, 96], "vgg11": [48, 72, 96, 96]}[
        name
    ]
    for stage in plan:
        classifier.enter(stage)
        shape = (2, 1, stage.resolution, stage.resolution)
        images = torch.randint(0, 256, shape, dtype=torch.uint8)
        before = [parameter.detach().clone() for parameter in net.parameters()]
        optimizer.zero_grad()
        loss = classifier.training_step(Batch(images, torch.tensor([0, 1]), torch.arange(2)), 0)
        loss.backward()
        classifier.on_before_optimizer_step(optimizer)
        optimizer.step()
        assert torch.isfinite(loss)
        moved = [not torch.equal(*pair) for pair in zip(before, net.parameters(), strict=True)]
        assert moved == [stage.trained == "all"] * (len(moved) - 2) + [True] * 2


@pytest.mark.parametrize(
    ("option", "native", "expected"),
    [
        ("at_native", 224, [224]),
        ("to_native", 224, [112, 168, 224]),
        ("to_native", 28, [16, 24, 28]),
    ],
)
def test_resolutions_of_the_data_are_those_of_its_images(option, native, expected, configuration):
    config = configuration("data=synthetic", f"data.native_size={native}", f"curriculum={option}")
    curriculum = curriculum_of(config, create_model("resnet20"))
    assert [stage.resolution for stage in curriculum.plan] == expected
    assert curriculum.evaluation_resolution == native
