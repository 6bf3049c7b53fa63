import subprocess
import sys

import pytest

from crescendo.curriculum.schedule import Curriculum, Ramp
from crescendo.errors import UserError


def resolutions(curriculum):
    return [curriculum.at(epoch).resolution for epoch in range(curriculum.epochs)]


@pytest.mark.parametrize(
    ("epochs", "stages", "split", "expected"),
    [
        (6, 3, "even", [2, 2, 2]),
        (7, 3, "even", [2, 3, 2]),
        (8, 3, "even", [3, 2, 3]),
        (3, 3, "even", [1, 1, 1]),
        (10, 2, [6, 4], [6, 4]),
        (20, 2, [6, 4], [12, 8]),
        (5, 2, [6, 4], [3, 2]),
        (12, 3, [6, 4, 2], [6, 4, 2]),
        (4, 3, [1, 1, 100], [1, 1, 2]),
        (4, 3, [100, 1, 1], [2, 1, 1]),
    ],
)
def test_epochs_of_each_stage(epochs, stages, split, expected):
    curriculum = Curriculum(epochs, Ramp(16, 32), stages, split)
    assert [stage.epochs for stage in curriculum.plan] == expected


def test_every_epoch_belongs_to_one_stage_and_every_stage_has_one():
    for stages in range(1, 9):
        for epochs in range(stages, 20):
            for split in ("even", [*range(1, stages), 50], [50] + [1] * (stages - 1)):
                curriculum = Curriculum(epochs, Ramp(8, 64), stages, split)
                seen = [curriculum.at(epoch) for epoch in range(epochs)]
                indices = [stage.index for stage in seen]
                assert indices == sorted(indices)
                assert set(indices) == set(range(stages))
                for stage in curriculum.plan:
                    assert (indices.index(stage.index), indices.count(stage.index)) == (
                        stage.first_epoch,
                        stage.epochs,
                    )


@pytest.mark.parametrize(
    ("start", "end", "stages", "multiple_of", "interpolation", "expected"),
    [
        (16, 32, 3, 8, "linear", [16, 24, 32]),
        (128, 300, 4, 1, "linear", [128, 185, 243, 300]),  # 185.3 and 242.7
        (128, 300, 4, 8, "linear", [128, 184, 240, 300]),
        (128, 300, 4, 32, "linear", [128, 192, 256, 300]),
        (20, 28, 3, 16, "linear", [20, 28, 28]),  # 24 is rounded to 32, beyond the end
        (13, 13, 2, 8, "linear", [13, 13]),
        (32, 16, 3, 8, "linear", [32, 24, 16]),
        (16, 64, 3, 8, "geometric", [16, 32, 64]),
        (16, 128, 4, 1, "geometric", [16, 32, 64, 128]),
    ],
)
def test_resolutions(start, end, stages, multiple_of, interpolation, expected):
    curriculum = Curriculum(
        stages, Ramp(start, end), stages, multiple_of=multiple_of, interpolation=interpolation
    )
    assert resolutions(curriculum) == expected


def test_a_stage_lasts_from_its_first_epoch_to_the_next():
    assert resolutions(Curriculum(8, Ramp(16, 32), 3, [1, 4, 3])) == [16, 24, 24, 24, 24, 32, 32, 32]


def test_knobs_rise_by_algorithm_1():
    knobs = {"dropout": Ramp(0.1, 0.3), "mixup": Ramp(0, 0.2), "drop_path": Ramp(0.2, 0.2)}
    plan = Curriculum(6, Ramp(128, 300), 3, knobs=knobs).plan
    assert [stage.knobs["dropout"] for stage in plan] == [0.1, pytest.approx(0.2), 0.3]
    assert [stage.knobs["mixup"] for stage in plan] == [0, pytest.approx(0.1), 0.2]
    assert [stage.knobs["drop_path"] for stage in plan] == [0.2, 0.2, 0.2]


def test_knobs_may_rise_geometrically_and_one_that_stays_at_0_may_stay():
    knobs = {"dropout": Ramp(0.1, 0.4), "mixup": Ramp(0, 0)}
    plan = Curriculum(3, Ramp(16, 64), 3, knobs=knobs, interpolation="geometric").plan
    assert [stage.knobs["dropout"] for stage in plan] == [0.1, pytest.approx(0.2), 0.4]
    assert [stage.knobs["mixup"] for stage in plan] == [0, 0, 0]


def test_one_stage_trains_at_the_end_values():
    stages = Curriculum(4, Ramp(16, 32), knobs={"dropout": Ramp(0.1, 0.5)}).plan
    assert [(s.first_epoch, s.epochs, s.resolution, s.knobs) for s in stages] == [
        (0, 4, 32, {"dropout": 0.5})
    ]


@pytest.mark.parametrize("resolution", [24, Ramp(24, 24), {"start": 24, "end": 24}])
def test_a_resolution_is_a_number_or_a_range(resolution):
    assert resolutions(Curriculum(2, resolution, 2)) == [24, 24]


@pytest.mark.parametrize(("given", "expected"), [(None, 32), (48, 48)])
def test_evaluation_takes_the_last_resolution_or_its_own(given, expected):
    curriculum = Curriculum(3, Ramp(16, 32), 3, evaluation_resolution=given)
    assert curriculum.evaluation_resolution == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 2}, r"2 epochs are too few for 3 stages.*trainer.max_epochs=3 or more.*stages=2"),
        ({"stages": 0}, r"curriculum.stages=0"),
        ({"split": [6, 4]}, r"curriculum.split=\[6, 4\].*curriculum.stages=3"),
        ({"split": [6, 0, 4]}, r"curriculum.split=\[6, 0, 4\]"),
        (
            {"interpolation": "geometric", "knobs": {"mixup": Ramp(0, 0.2)}},
            r"mixup goes from 0 to 0.2.*interpolation=linear",
        ),
        ({"interpolation": "geometric", "knobs": {"dropout": Ramp(0.5, 0)}}, r"dropout goes from 0.5 to 0"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Curriculum(**({"epochs": 9, "resolution": Ramp(16, 32), "stages": 3} | settings))


@pytest.mark.parametrize("epoch", [-1, 9])
def test_an_epoch_outside_of_the_training_has_no_stage(epoch):
    with pytest.raises(ValueError, match=f"epoch {epoch} is outside"):
        Curriculum(9, 32, 3).at(epoch)


def test_the_schedule_needs_neither_torch_nor_lightning():
    code = (
        "import sys, crescendo.curriculum.schedule\n"
        "print({'torch', 'lightning', 'pytorch_lightning', 'numpy', 'hydra'} & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (answer.stdout, answer.stderr) == ("set()\n", "")


@pytest.mark.parametrize(
    ("end", "smallest", "multiple_of", "start"),
    [(32, 1, 8, 16), (224, 32, 8, 112), (32, 32, 8, 32), (96, 63, 8, 63), (28, 63, 4, 28), (300, 1, 8, 152)],
)
def test_an_automatic_start_is_half_the_end_or_what_the_net_takes(end, smallest, multiple_of, start):
    resolution = {"start": "auto", "end": end}
    curriculum = Curriculum(3, resolution, 3, multiple_of=multiple_of, smallest=smallest)
    assert [stage.resolution for stage in curriculum.plan][::2] == [start, end]
