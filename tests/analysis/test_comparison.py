import csv
import io
import json

import pytest
from omegaconf import OmegaConf
from rich.console import Console

from crescendo.analysis.comparison import (
    Interval,
    compare,
    find_reference,
    saving,
    show_comparison,
    spread,
    write_runs,
)

CONFIG = {
    "name": "digits",
    "runs_dir": "runs",
    "seed": 0,
    "logger": {},
    "data": {"name": "digits", "root": None, "num_workers": 0, "batch_size": 32},
    "model": {"_target_": "crescendo.models.resnet_cifar.resnet20"},
    "regularization": {"mixup": 0.1},
}


def run(place, accuracy=None, status="finished", seconds=10.0, spent=(), **changed):
    """A run directory with a summary, or without one where `status` is None."""
    place.mkdir(parents=True)
    config = OmegaConf.create(CONFIG)
    for name, value in changed.items():
        OmegaConf.update(config, name.replace("__", "."), value, merge=False)
    OmegaConf.save(config, place / "config.yaml")
    if status is not None:
        metrics = {} if accuracy is None else {"test/accuracy": accuracy}
        summary = {
            "status": status,
            "seconds": seconds,
            "parameters": 272474,
            "macs": 41000000,
            "metrics": metrics,
            **dict(zip(("train_macs", "cpu_seconds"), spent, strict=False)),
        }
        (place / "summary.json").write_text(json.dumps(summary))
    return place


def shown(rows):
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(show_comparison(rows))
    return console.export_text()


def test_seeds_are_pooled_and_groups_are_named_by_what_differs(tmp_path):
    lenet = "crescendo.models.lenet.lenet5"
    runs = [
        run(tmp_path / "a", 0.90, seed=0, seconds=10.0),
        run(tmp_path / "b", 0.97, model___target_=lenet, seconds=4.0),
        run(tmp_path / "c", 0.92, seed=1, seconds=14.0),
    ]
    best, other = compare(runs)
    assert best.differences == {"model._target_": lenet}
    assert best.accuracies == [0.97]
    assert other.differences == {"model._target_": "crescendo.models.resnet_cifar.resnet20"}
    assert (other.accuracies, other.seconds) == ([0.90, 0.92], [10.0, 14.0])
    assert (other.parameters, other.macs) == (272474, 41000000)
    assert (best.unfinished, other.unfinished) == ([], [])
    text = shown([best, other])
    assert text.index("lenet5") < text.index("resnet20")
    assert "0.9100 ± 0.0141" in text
    assert "12.0 ± 2.8" in text
    assert "272,474" in text
    assert "41M" in text
    assert "not counted" not in text


@pytest.mark.parametrize(
    "incidental",
    [
        {"seed": 5},
        {"name": "again"},
        {"runs_dir": "/elsewhere"},
        {"data__root": "/data"},
        {"data__num_workers": 4},
        {"logger": {"_target_": "crescendo.tracking.tensorboard"}},
    ],
)
def test_runs_that_differ_by_chance_alone_are_one_group(tmp_path, incidental):
    (row,) = compare([run(tmp_path / "a", 0.9), run(tmp_path / "b", 0.8, **incidental)])
    assert row.differences == {}
    assert row.accuracies == [0.9, 0.8]
    assert "all" in shown([row])


@pytest.mark.parametrize(
    ("changed", "name", "values"),
    [
        ({"data__name": "mnist"}, "data.name", {"digits", "mnist"}),
        ({"data__batch_size": 64}, "data.batch_size", {32, 64}),
        ({"regularization__mixup": 0.2}, "regularization.mixup", {0.1, 0.2}),
    ],
)
def test_runs_of_other_settings_are_two_groups(tmp_path, changed, name, values):
    rows = compare([run(tmp_path / "a", 0.9), run(tmp_path / "b", 0.8, **changed)])
    assert [list(row.differences) for row in rows] == [[name], [name]]
    assert {row.differences[name] for row in rows} == values


def test_a_number_and_a_range_are_two_groups(tmp_path):
    ramp = {"start": 0.1, "end": 0.1}
    rows = compare([run(tmp_path / "a", 0.9), run(tmp_path / "b", 0.8, regularization__mixup=ramp)])
    assert len(rows) == 2
    assert rows[0].differences != rows[1].differences


def test_unfinished_runs_are_named_and_not_counted(tmp_path):
    runs = [
        run(tmp_path / "good", 0.9),
        run(tmp_path / "failed", 0.1, status="failed"),
        run(tmp_path / "going", status=None),
        run(tmp_path / "untested", status="finished"),
    ]
    (row,) = compare(runs)
    assert row.accuracies == [0.9]
    assert row.unfinished == [
        f"failed {runs[1]}",
        f"unfinished {runs[2]}",
        f"finished {runs[3]}",
    ]
    text = shown([row]).replace("\n", " ")
    assert "not counted: failed" in text
    assert "going" in text


def test_a_group_without_a_result_comes_last(tmp_path):
    runs = [
        run(tmp_path / "a", status="interrupted", data__batch_size=64),
        run(tmp_path / "b", 0.1),
    ]
    first, last = compare(runs)
    assert first.accuracies == [0.1]
    assert last.accuracies == []
    assert (last.parameters, last.macs) == (None, None)
    assert shown([first, last]).count(" - ") >= 4


def test_the_spread_is_that_of_a_sample():
    assert spread([0.5], 4) == "0.5000"
    assert spread([1, 2, 3, 4], 2) == "2.50 ± 1.29"  # sqrt(5 / 3)


FIXED = {"arm": "fixed", "curriculum": {"stages": 1, "resolution": {"start": 28}}}
RISING = {"arm": "rising", "curriculum": {"stages": 3, "resolution": {"start": 16}}}
SHORT = {**FIXED, "arm": "short", "trainer": {"max_epochs": 5}}


def sweep(place, arms):
    """Runs of several arms: for each, its settings, and seed -> (accuracy, MACs, CPU seconds)."""
    return [
        run(place / f"{settings['arm']}{seed}", accuracy, seed=seed, spent=spent, **settings)
        for settings, results in arms
        for seed, (accuracy, *spent) in results.items()
    ]


def test_an_arm_stands_for_all_that_it_sets(tmp_path):
    one = {1: (0.9, 10, 1)}
    rows = compare(sweep(tmp_path / "arms", [(FIXED, one), (RISING, one)]))
    assert [row.differences for row in rows] == [{"arm": "fixed"}, {"arm": "rising"}]
    wider = {**FIXED, "model": {"_target_": "crescendo.models.resnet_cifar.resnet56"}}
    rows = compare(sweep(tmp_path / "nets", [(FIXED, one), (wider | {"arm": "fixed"}, {2: (0.8, 1, 1)})]))
    assert [list(row.differences) for row in rows] == [["model._target_"]] * 2


def test_savings_are_paired_over_the_seeds_that_both_have(tmp_path):
    arms = [
        (FIXED, {1: (0.90, 1e12, 100.0), 2: (0.92, 1e12, 120.0), 3: (0.50, 9e12, 900.0)}),
        (RISING, {2: (0.93, 6e11, 72.0), 1: (0.89, 5e11, 60.0)}),
        (SHORT, {1: (0.80, 5e11, 50.0), 2: (0.821, 5e11, 60.0)}),
    ]
    rows = {row.differences["arm"]: row for row in compare(sweep(tmp_path, arms))}
    against = saving(rows["rising"], rows["fixed"])
    # differences +.01 and -.01: mean 0, deviation .01 sqrt 2; t of one degree of freedom is 12.706
    assert against.difference.mean == pytest.approx(0)
    assert against.difference.half == pytest.approx(0.12706, abs=1e-5)
    assert (against.macs, against.cpu_seconds) == pytest.approx((0.55, 0.6))
    assert against.equal_accuracy
    # -.100 and -.099: lower beyond the interval of +- .00635
    assert not saving(rows["short"], rows["fixed"]).equal_accuracy


def test_the_reference_is_the_best_at_one_resolution(tmp_path):
    results = {1: (0.9, 1e12, 100.0), 2: (0.91, 1e12, 100.0)}
    better = {1: (0.95, 6e11, 60.0), 2: (0.96, 6e11, 60.0)}
    worse = {1: (0.85, 5e11, 50.0), 2: (0.86, 5e11, 50.1)}
    rows = compare(sweep(tmp_path, [(SHORT, worse), (RISING, better), (FIXED, results)]))
    assert [row.differences["arm"] for row in rows] == ["rising", "fixed", "short"]
    assert find_reference(rows).differences == {"arm": "fixed"}
    text = shown(rows)
    assert "reference" in text
    assert "0.60 / 0.60" in text
    assert "+0.0500 ± 0.0000" in text
    assert "-0.0500" in text
    assert "0.50 / 0.50" not in text  # cheaper, but lower
    assert "600G" in text


def test_a_noisy_row_that_is_lower_is_not_equal(tmp_path):
    arms = [(FIXED, {1: (0.90, 1e12), 2: (0.90, 1e12)}), (RISING, {1: (0.80, 5e11), 2: (0.83, 5e11)})]
    rows = {row.differences["arm"]: row for row in compare(sweep(tmp_path, arms))}
    against = saving(rows["rising"], rows["fixed"])
    assert against.difference.mean + against.difference.half > 0
    assert not against.equal_accuracy


@pytest.mark.parametrize(("accuracy", "reference"), [(0.899, "short"), (0.897, "fixed")])
def test_the_reference_is_the_cheapest_near_the_best(tmp_path, accuracy, reference):
    arms = [(FIXED, {1: (0.9, 1e12), 2: (0.9, 1e12)}), (SHORT, {1: (accuracy, 5e11), 2: (accuracy, 5e11)})]
    assert find_reference(compare(sweep(tmp_path, arms))).differences == {"arm": reference}


def test_a_last_stage_of_its_own_is_another_resolution(tmp_path):
    tuned = {"arm": "tuned", "curriculum": {"stages": 1, "fixres": 0.1, "resolution": {"start": 28}}}
    arms = [(FIXED, {1: (0.9, 1e12)}), (tuned, {1: (0.95, 1e12)})]
    assert find_reference(compare(sweep(tmp_path, arms))).differences == {"arm": "fixed"}


def test_lengths_that_a_budget_gave_are_one_group(tmp_path):
    runs = [
        run(tmp_path / f"{seed}", 0.9, seed=seed, budget="20min", trainer={"max_epochs": 20 + seed})
        for seed in (1, 2)
    ]
    (row,) = compare(runs)
    assert row.seeds == [1, 2]


def test_what_refreshes_took_is_counted(tmp_path):
    place = run(tmp_path / "a", 0.9, spent=(10, 1.0))
    summary = json.loads((place / "summary.json").read_text())
    (place / "summary.json").write_text(json.dumps(summary | {"bn_refresh_macs": 4}))
    (row,) = compare([place])
    assert row.train_macs == [14]


def test_a_csv_has_a_row_for_each_finished_run(tmp_path):
    arms = [(FIXED, {1: (0.9, 10, 1.0), 2: (0.8, 10, 1.5)}), (RISING, {1: (0.7, 5, 0.5)})]
    failed = run(tmp_path / "failed", status="failed", seed=3, **FIXED)
    write_runs(compare([*sweep(tmp_path, arms), failed]), tmp_path / "runs.csv")
    with (tmp_path / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["arm"], row["seed"], row["test_accuracy"]) for row in rows] == [
        ("fixed", "1", "0.9"),
        ("fixed", "2", "0.8"),
        ("rising", "1", "0.7"),
    ]
    assert [row["train_macs"] for row in rows] == ["10", "10", "5"]


def test_one_seed_has_no_interval_and_saves_nothing(tmp_path):
    assert Interval.of([0.5]).half is None
    one = {1: (0.9, 1e12, 100.0)}
    rows = {row.differences["arm"]: row for row in compare(sweep(tmp_path, [(FIXED, one), (RISING, one)]))}
    assert not saving(rows["rising"], rows["fixed"]).equal_accuracy
    other = compare(sweep(tmp_path / "other", [(FIXED, one), (RISING, {2: (0.9, 1e12, 100.0)})]))
    assert saving(other[1], other[0]) is None


def test_runs_that_recorded_no_cost_have_none(tmp_path):
    rows = compare(sweep(tmp_path, [(FIXED, {1: (0.9,), 2: (0.9,)}), (RISING, {1: (0.9,), 2: (0.91,)})]))
    against = saving(*rows)
    assert (against.macs, against.cpu_seconds) == (None, None)
    assert "- / -" in shown(rows)
