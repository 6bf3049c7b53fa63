import io
from dataclasses import replace

import pytest
from rich.console import Console
from torch import nn

from crescendo.analysis.plan import check_net_follows, duration, make_plan, short_number, show_plan
from crescendo.analysis.speed import Speeds, StageSpeed
from crescendo.curriculum.schedule import Curriculum, Ramp
from crescendo.errors import UserError
from crescendo.models import create_model
from crescendo.optim import Constant, Cosine, OneCycle, Step
from crescendo.scaling.coefficients import Scaling


def plan(curriculum, schedule=Constant(), not_applied=()):  # noqa: B008
    return make_plan(
        nn.Conv2d(3, 2, 1),  # 6 MACs and no more a pixel, 8 parameters
        curriculum,
        schedule,
        in_channels=3,
        lr=0.1,
        batch_size=32,
        steps_per_epoch=40,
        not_applied=not_applied,
    )


@pytest.mark.parametrize(
    ("curriculum", "macs", "cost"),
    [
        (Curriculum(4, Ramp(16, 32), 2, [3, 1]), (1536, 6144), 0.4375),  # (3 * 256 + 1024) / 4096
        (Curriculum(3, Ramp(16, 32), 3), (1536, 3456, 6144), 1856 / 3072),
        (Curriculum(5, 32), (6144,), 1.0),
    ],
)
def test_cost_is_a_share_of_training_at_the_last_resolution(curriculum, macs, cost):
    made = plan(curriculum)
    assert made.macs == macs
    assert made.cost == pytest.approx(cost)
    assert made.evaluation_macs == 6144
    assert made.parameters == 8


def test_evaluation_is_counted_at_its_own_resolution():
    made = plan(Curriculum(2, 16, evaluation_resolution=32))
    assert (made.macs, made.evaluation_resolution, made.evaluation_macs) == ((1536,), 32, 6144)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Constant(), [0.1, 0.1]),
        (Step([0.5]), [0.1, 0.01]),
        (Cosine(), [0.1, 0.05]),
        (OneCycle(peak=0.75), [0.069, 0.1]),  # two thirds up: (1 - cos(pi 2/3)) / 2 is 3/4
    ],
)
def test_learning_rates_are_the_highest_of_each_stage(schedule, expected):
    made = plan(Curriculum(4, Ramp(16, 32), 2), schedule)
    if isinstance(schedule, OneCycle):
        expected[0] = 0.1 * (0.04 + 0.96 * 0.75)
    assert made.learning_rates == pytest.approx(expected, rel=0.01)


def test_the_plan_as_shown():
    curriculum = Curriculum(
        4, Ramp(16, 32), 2, [3, 1], {"dropout": Ramp(0, 0.25), "mixup": Ramp(0, 0)}, evaluation_resolution=48
    )
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(show_plan(plan(curriculum, Step([0.75]), not_applied=("drop_path",))))
    lines = [line.strip("│ ").split() for line in console.export_text().splitlines()]
    cells = [[cell for cell in line if cell not in ("│", "┃")] for line in lines]
    assert ["1/2", "1-3", "16", "1.54k", "32", "0.1", "0"] in cells
    assert ["2/2", "4", "32", "6.14k", "32", "0.01", "0.25"] in cells
    text = "\n".join(" ".join(line) for line in lines)
    assert "40 steps an epoch, 2 shapes to compile, evaluated at 48 px" in text
    # a step is three forward passes: 3 * 40 * 32 * (3 * 1536 + 6144) = 41.3 M
    assert "41.3M MACs to train, 0.44 of the MACs of curriculum=constant" in text
    assert "Conv2d has no drop path: not applied" in text
    assert "mixup" not in text


@pytest.mark.parametrize(("warmup_epochs", "rises"), [(1.5, False), (2, True)])
def test_a_warm_up_that_takes_the_whole_training_is_told(warmup_epochs, rises):
    made = plan(Curriculum(2, 32), Cosine(warmup_epochs))
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(show_plan(made))
    assert ("the learning rate rises to the end" in console.export_text()) is rises


def test_the_plan_shows_what_scaled_it():
    made = replace(plan(Curriculum(2, 37)), scaling=Scaling("compound", 1, 1.2, 1.1, 1.15))
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(show_plan(made))
    text = console.export_text()
    assert "scaling=compound, phi 1: depth x 1.2, width x 1.1, resolution x 1.15" in text
    assert "evaluated at 37 px" in text


def test_the_plan_with_what_was_measured():
    made = plan(Curriculum(4, Ramp(16, 32), 2, [3, 1]))
    speeds = Speeds(
        [StageSpeed(made.stages[0], 0.25, 1.0, 2**20), StageSpeed(made.stages[1], 0.5, 2.0, 3 * 2**20)],
        steps=10,
        validation_seconds=2.0,
        device="a device",
        devices=2,
    )
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(show_plan(made, speeds, budget="1min"))
    text = console.export_text()
    assert "measured: 10 steps a stage on 2 x a device" in text
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines()]
    assert ["16", "0.25", "128", "1 MiB", "10 s"] in cells
    assert ["32", "0.5", "64", "3 MiB", "20 s"] in cells
    # 3 * 10 + 20 + 4 * 2 + 3 = 61 s, of 4 * 20 + 4 * 2 + 3 = 91 s
    assert "1 min 1 s to train, 0.67 of curriculum=constant" in text
    assert "with 4 validations of 2 s and 3 s for first steps" in text
    assert "trainer.max_epochs=4: the most that budget=1min pays for" in text


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.1234, "0.123 s"), (59, "59 s"), (245, "4 min 5 s"), (9000, "2 h 30 min"), (273_600, "3 d 4 h")],
)
def test_durations(seconds, expected):
    assert duration(seconds) == expected


def limited(smallest, largest=None, name="net"):
    net = nn.Identity()
    net.name, net.min_resolution, net.max_resolution = name, smallest, largest
    return net


@pytest.mark.parametrize(
    ("net", "settings", "message", "pasted"),
    [
        (
            limited(63, name="alexnet"),
            {"resolution": Ramp(16, 96)},
            "alexnet needs 63 px or more, stage 0 uses 16: add curriculum.resolution.start=63",
            {"resolution": Ramp(63, 96)},
        ),
        (
            limited(63),
            {"resolution": Ramp(16, 32)},
            "net needs 63 px or more, stage 0 uses 16: "
            "add curriculum.resolution.start=63 curriculum.resolution.end=63",
            {"resolution": Ramp(63, 63)},
        ),
        (
            limited(32),
            {"resolution": Ramp(64, 16)},
            "net needs 32 px or more, stage 2 uses 16: add curriculum.resolution.end=32",
            {"resolution": Ramp(64, 32)},
        ),
        (
            create_model("lenet5"),
            {"resolution": Ramp(16, 32)},
            "lenet5 takes 32 px only, stage 0 uses 16: add curriculum=constant",
            {"resolution": Ramp(32, 32), "stages": 1},
        ),
        (
            create_model("lenet5"),
            {"resolution": Ramp(16, 64)},
            "lenet5 takes 32 px only, stage 0 uses 16: add curriculum=constant curriculum.resolution.end=32",
            {"resolution": Ramp(32, 32), "stages": 1},
        ),
        (
            limited(8, 64),
            {"resolution": Ramp(16, 96)},
            "net takes 64 px at most, stage 2 uses 96: add curriculum=constant curriculum.resolution.end=64",
            {"resolution": Ramp(32, 64), "stages": 1},
        ),
        (
            limited(32),
            {"resolution": Ramp(32, 64), "evaluation_resolution": 24},
            "net needs 32 px or more, evaluation uses 24: add curriculum.evaluation_resolution=32",
            {"resolution": Ramp(32, 64), "evaluation_resolution": 32},
        ),
        (
            create_model("lenet5"),
            {"resolution": 32, "evaluation_resolution": 48},
            "lenet5 takes 32 px only, evaluation uses 48: add curriculum.evaluation_resolution=32",
            {"resolution": 32, "evaluation_resolution": 32},
        ),
    ],
)
def test_a_resolution_that_the_net_cannot_take_is_refused_with_what_to_paste(net, settings, message, pasted):
    with pytest.raises(UserError) as refusal:
        check_net_follows(net, Curriculum(**{"epochs": 3, "stages": 3} | settings))
    assert str(refusal.value) == message
    check_net_follows(net, Curriculum(**{"epochs": 3, "stages": 3} | pasted))


def test_a_net_without_limits_follows_any_curriculum():
    check_net_follows(nn.Identity(), Curriculum(3, Ramp(1, 1000), 3))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1k"),
        (1_234_567, "1.23M"),
        (41_000_000_000, "41G"),
        (999_900, "1M"),
        (2e15, "2P"),
    ],
)
def test_short_numbers(value, expected):
    assert short_number(value) == expected
