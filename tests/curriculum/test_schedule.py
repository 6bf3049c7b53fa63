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


def test_every_epoch_raises_the_knobs_at_each_and_the_resolution_in_few_steps():
    knobs = {"randaugment": Ramp(0, 11)}
    plan = Curriculum(12, Ramp(16, 64), "every_epoch", knobs=knobs, multiple_of=8, max_shapes=4).plan
    assert [stage.resolution for stage in plan] == [16] * 3 + [32] * 3 + [48] * 3 + [64] * 3
    assert [stage.knobs["randaugment"] for stage in plan] == pytest.approx(range(12))
    assert [(stage.first_epoch, stage.epochs) for stage in plan] == [(epoch, 1) for epoch in range(12)]


@pytest.mark.parametrize(
    ("epochs", "max_shapes", "expected"),
    [
        (4, None, [16, 26, 35, 45]),  # 25.7 and 35.3
        (4, 9, [16, 26, 35, 45]),
        (4, 3, [16, 16, 31, 45]),  # 30.5
        (4, 2, [16, 16, 45, 45]),
        (4, 1, [45, 45, 45, 45]),
        (1, 4, [45]),
    ],
)
def test_the_number_of_shapes_is_bounded(epochs, max_shapes, expected):
    curriculum = Curriculum(epochs, Ramp(16, 45), "every_epoch", max_shapes=max_shapes)
    assert resolutions(curriculum) == expected


def test_the_bound_holds_for_uneven_stages_too():
    curriculum = Curriculum(10, Ramp(16, 64), 4, [1, 2, 3, 4], max_shapes=2)
    assert resolutions(curriculum) == [16] * 3 + [64] * 7


def drawn(seed=0, **settings):
    settings = {"multiple_of": 8, "order": "random", "knobs": {"mixup": Ramp(0, 1)}} | settings
    return Curriculum(400, Ramp(20, 50), "every_epoch", seed=seed, **settings)


def test_a_random_order_draws_each_allowed_size_about_as_often():
    sizes = resolutions(drawn())
    assert set(sizes) == {20, 24, 32, 40, 48, 50}
    for size in set(sizes):
        assert 40 < sizes.count(size) < 95  # 67 is even, 7.5 a deviation
    assert set(resolutions(drawn(max_shapes=3))) == {20, 32, 50}  # 35 is nearer to 32 than to 40


def test_a_random_order_is_a_function_of_seed_and_epoch():
    first = drawn()
    assert [first.at(epoch) for epoch in (7, 3, 7)] == [drawn().at(epoch) for epoch in (7, 3, 7)]
    assert resolutions(first) != resolutions(drawn(seed=1))
    longer = Curriculum(500, Ramp(20, 50), "every_epoch", order="random", multiple_of=8)
    assert resolutions(longer)[:400] == resolutions(first)


def test_a_size_may_be_drawn_for_several_epochs():
    curriculum = Curriculum(24, Ramp(16, 64), 3, multiple_of=8, order="random", seed=2)
    assert [stage.epochs for stage in curriculum.plan] == [8, 8, 8]


@pytest.mark.parametrize("interpolation", ["linear", "geometric"])
def test_the_knobs_follow_a_drawn_size_or_stay_at_their_ends(interpolation):
    knobs = {"dropout": Ramp(0.1, 0.4)}
    half = {"linear": (35, 0.25), "geometric": (32, 0.2)}[interpolation]  # sqrt(20 * 50) is 31.6
    settings = {"knobs": knobs, "interpolation": interpolation, "max_shapes": 3, "multiple_of": 1}
    for stage in drawn(**settings).plan:
        expected = {20: 0.1, half[0]: half[1], 50: 0.4}[stage.resolution]
        assert stage.knobs["dropout"] == pytest.approx(expected, rel=0.02)
    assert {stage.knobs["dropout"] for stage in drawn(**settings, adaptive=False).plan} == {0.4}


def test_a_curriculum_that_is_not_adaptive_raises_the_resolution_alone():
    plan = Curriculum(3, Ramp(16, 32), 3, knobs={"mixup": Ramp(0, 1)}, adaptive=False).plan
    assert [(stage.resolution, stage.knobs["mixup"]) for stage in plan] == [(16, 1), (24, 1), (32, 1)]


@pytest.mark.parametrize(
    ("epochs", "stages", "fixres", "expected"),
    [
        (10, 1, 0.1, [9, 1]),
        (30, 1, 0.1, [27, 3]),
        (4, 1, 0.01, [3, 1]),
        (10, 3, 0.2, [3, 2, 3, 2]),
        (4, 3, 0.9, [1, 1, 1, 1]),
        (4, "every_epoch", 0.25, [1, 1, 1, 1]),
    ],
)
def test_fixres_is_a_last_stage_at_the_resolution_of_evaluation(epochs, stages, fixres, expected):
    plan = Curriculum(
        epochs, Ramp(16, 24), stages, knobs={"mixup": Ramp(0, 1)}, fixres=fixres, evaluation_resolution=32
    ).plan
    assert [stage.epochs for stage in plan] == expected
    *others, before, last = plan
    assert (before.resolution, before.knobs["mixup"], before.trained) == (24, 1, "all")
    assert (last.resolution, last.knobs["mixup"], last.trained) == (32, 1, "head_and_norms")
    assert last.first_epoch == epochs - expected[-1]
    assert {stage.trained for stage in others} <= {"all"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_shapes": 0}, r"curriculum.max_shapes=0"),
        ({"fixres": 1.0}, r"curriculum.fixres=1: must be a share"),
        ({"fixres": -0.1}, r"curriculum.fixres=-0.1"),
        (
            {"epochs": 3, "fixres": 0.1},
            r"3 epochs are too few for 3 \+ 1 stages.*max_epochs=4 or more, or curriculum.stages=2",
        ),
        ({"epochs": 1, "stages": 1, "fixres": 0.1}, r"1 \+ 1 stages.*max_epochs=2.*curriculum.fixres=0"),
        ({"stages": "every_epoch", "split": [6, 4]}, r"curriculum.split=\[6, 4\].*every_epoch stages"),
    ],
)
def test_what_the_other_curricula_cannot_be_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Curriculum(**({"epochs": 9, "resolution": Ramp(16, 32), "stages": 3} | settings))


def test_a_scaled_curriculum_has_every_resolution_times_the_factor():
    curriculum = Curriculum(
        4, Ramp(128, 224), 4, knobs={"mixup": Ramp(0, 0.3)}, multiple_of=8, evaluation_resolution=260
    )
    scaled = curriculum.scaled(1.15)  # 147.2, 184, 220.8, 257.6 and 299
    assert [stage.resolution for stage in curriculum.plan] == [128, 160, 192, 224]
    assert [stage.resolution for stage in scaled.plan] == [144, 184, 224, 256]
    assert scaled.evaluation_resolution == 296
    assert scaled.constant.resolution == 256
    assert [stage.knobs for stage in scaled.plan] == [stage.knobs for stage in curriculum.plan]
    assert curriculum.scaled(1) is curriculum


def test_a_scaled_curriculum_without_multiples_rounds_to_pixels():
    scaled = Curriculum(2, 224).scaled(1.15)
    assert [stage.resolution for stage in scaled.plan] == [258]
    assert scaled.evaluation_resolution == 258


def test_a_scaled_curriculum_starts_where_auto_did_and_ends_with_fixres():
    curriculum = Curriculum(
        4, {"start": "auto", "end": 32}, 2, multiple_of=8, evaluation_resolution=40, fixres=0.25
    )
    assert [stage.resolution for stage in curriculum.scaled(1.5).plan] == [24, 48, 64]  # 60 goes up


def test_the_knobs_of_a_scaled_random_curriculum_stay_within_their_ranges():
    curriculum = Curriculum(
        30,
        Ramp(16, 32),
        "every_epoch",
        knobs={"mixup": Ramp(0.1, 0.3)},
        multiple_of=8,
        order="random",
    ).scaled(1.15)
    seen = {stage.resolution: stage.knobs["mixup"] for stage in curriculum.plan}  # 18.4 to 36.8
    assert sorted(seen) == [16, 24, 32, 40]
    assert (seen[16], seen[40]) == (0.1, 0.3)
    assert 0.1 < seen[24] < seen[32] < 0.3
