import csv
import io
import json

import pytest
from omegaconf import OmegaConf
from rich.console import Console

from crescendo.analysis.comparison import Reference, compare, find_reference, hold_against, saving
from crescendo.analysis.comparison_table import ComparisonTable, write_markdown, write_runs
from crescendo.analysis.uncertainty import PairedTest
from crescendo.errors import UserError
from crescendo.sweeps.record import Sweep, jobs_without_run

CONFIG = {
    "name": "digits",
    "runs_dir": "runs",
    "seed": 0,
    "logger": {},
    "data": {"name": "digits", "root": None, "num_workers": 0, "batch_size": 32},
    "model": {"_target_": "crescendo.models.resnet_cifar.resnet20"},
    "regularization": {"mixup": 0.1},
}


def run(place, accuracy=None, status="finished", seconds=10.0, spent=(), typed=None, **changed):
    """A run directory with a summary, or without one where `status` is None."""
    place.mkdir(parents=True)
    config = OmegaConf.create(CONFIG)
    for name, value in changed.items():
        OmegaConf.update(config, name.replace("__", "."), value, merge=False)
    OmegaConf.save(config, place / "config.yaml")
    if typed is not None:
        OmegaConf.save(OmegaConf.create(typed), place / "overrides.yaml")
    if status is not None:
        metrics = {} if accuracy is None else {"test/accuracy": accuracy}
        summary = {
            "status": status,
            "seconds": seconds,
            "parameters": 272474,
            "macs": 41000000,
            "metrics": metrics,
            **dict(zip(("train_macs", "cpu_seconds", "images_per_second"), spent, strict=False)),
        }
        (place / "summary.json").write_text(json.dumps(summary))
    return place


def shown(rows, width=200, **against):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(ComparisonTable(hold_against(rows, **against)))
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
    assert "0.9100 ± 0.1271" in text  # deviation .01414 over sqrt(2), times 12.706
    assert "0.0141" in text
    assert "12.0" in text
    assert "272k" in text
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
    lines = shown([row]).splitlines()
    assert lines[lines.index("not counted:") + 1].startswith("  failed ")
    assert "going" in lines[-2]


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
    assert {(row["parameters"], row["macs"]) for row in rows} == {("272474", "41000000")}


def test_one_seed_has_no_interval_and_saves_nothing(tmp_path):
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


def test_what_was_typed_names_the_groups(tmp_path):
    rising = {"stages": 3, "resolution": {"start": 16}}
    runs = [
        run(tmp_path / "a", 0.9, typed=["model=resnet20", "seed=1"], seed=1),
        run(tmp_path / "b", 0.8, typed=["model=resnet20", "curriculum=rising", "seed=1"], curriculum=rising),
        run(tmp_path / "c", 0.8, typed=["model=resnet20", "curriculum=rising", "seed=2"], curriculum=rising),
    ]
    first, other = compare(runs)
    assert (first.differences, other.differences) == ({"curriculum": None}, {"curriculum": "rising"})
    assert list(other.settings) == ["curriculum.stages", "curriculum.resolution.start"]
    assert (first.label, other.label) == ("as it is", "rising")


def test_what_was_typed_in_different_ways_does_not_name_them(tmp_path):
    runs = [
        run(tmp_path / "a", 0.9, typed=["data.batch_size=32"]),
        run(tmp_path / "b", 0.9, typed=[], seed=1),
        run(tmp_path / "c", 0.8, typed=["data.batch_size=64"], data__batch_size=64),
    ]
    assert [row.label for row in compare(runs)] == ["batch_size 32", "batch_size 64"]
    assert [row.differences for row in compare(runs)] == [{"data.batch_size": 32}, {"data.batch_size": 64}]


@pytest.mark.parametrize(
    ("choice", "reference"), [("best", "rising"), ("fixed", "fixed"), ("first", "short"), ("auto", "fixed")]
)
def test_the_reference_can_be_chosen(tmp_path, choice, reference):
    arms = [(SHORT, {1: (0.8, 5)}), (FIXED, {1: (0.9, 10)}), (RISING, {1: (0.95, 6)})]
    rows = compare(sweep(tmp_path, arms))
    assert find_reference(rows, Reference(choice)).differences == {"arm": reference}


def test_without_one_at_one_resolution_the_reference_is_the_best(tmp_path):
    slow = {**RISING, "arm": "slow", "trainer": {"max_epochs": 9}}
    rows = compare(sweep(tmp_path, [(RISING, {1: (0.8, 5)}), (slow, {1: (0.9, 10)})]))
    assert find_reference(rows).differences == {"arm": "slow"}
    with pytest.raises(UserError, match="no group trains at one resolution"):
        find_reference(rows, Reference.FIXED)


def test_p_values_are_of_paired_seeds_and_adjusted(tmp_path):
    base = dict.fromkeys((1, 2, 3), (0.9, 1000000000000.0))
    arms = [
        (FIXED, base),
        (RISING, {1: (0.91, 1e12), 2: (0.92, 1e12), 3: (0.93, 1e12)}),
        (SHORT, {1: (0.80, 1e12), 2: (0.81, 1e12), 3: (0.82, 1e12)}),
    ]
    rows = compare(sweep(tmp_path, arms))
    found = hold_against(rows, Reference.FIXED)
    # t = .02 / (.01 / sqrt(3)) = 3.464: p = .0742; t = -15.59: p = .0041, doubled
    assert found.p_values == pytest.approx([0.0742, None, 0.0082], abs=1e-4)
    signed = hold_against(rows, Reference.FIXED, PairedTest.WILCOXON)
    assert signed.p_values == pytest.approx([0.5, None, 0.5])  # 2 / 2^3, doubled
    text = shown(rows, choice=Reference.FIXED)
    assert "0.074" in text
    assert "p: paired t-test, adjusted for 2 tests (Holm)" in text
    assert "Wilcoxon" in shown(rows, test=PairedTest.WILCOXON)


MANY = {f"knob_{place}": {"a_long_name_of_a_setting": place} for place in range(4)}


@pytest.mark.parametrize("width", [60, 80, 140, 200])
@pytest.mark.parametrize("settings", [{}, {"model": {"_target_": "crescendo.models.x.a_net"}, **MANY}])
def test_no_column_is_squeezed_at_any_width(tmp_path, width, settings):
    results = {seed: (0.9 + seed / 100, 1e12, 100.0) for seed in (1, 2)}
    other = {seed: (0.8 + seed / 50, 5e11, 50.0) for seed in (1, 2)}
    first, second = {"data": {"batch_size": 32}}, {"data": {"batch_size": 64}, **settings}
    runs = [
        run(tmp_path / f"{name}{seed}", accuracy, seed=seed, spent=spent, **own)
        for name, own, values in (("a", first, results), ("b", second, other))
        for seed, (accuracy, *spent) in values.items()
    ]
    text = shown(compare(runs), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for cell in ("test accuracy", "0.9150 ± 0.0635", "0.8300 ± 0.1271", "reference", "-0.0850 ± 0.0635"):
        assert cell in text
    assert ("train MACs" in text.split("left out")[0]) == (width >= 140)
    assert ("left out at this width" in text) == (width < 200)


def test_markdown_has_every_column(tmp_path):
    arms = [
        (FIXED, {1: (0.9, 1e12, 100.0, 250.0), 2: (0.91, 1e12, 100.0, 350.0)}),
        (RISING, {1: (0.9, 5e11, 50.0)}),
    ]
    write_markdown(hold_against(compare(sweep(tmp_path, arms))), tmp_path / "table.md")
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[0].startswith(
        "| arm | runs | test accuracy | std | parameters | MACs | train MACs | CPU s | images/s | seconds |"
    )
    assert [line.split(" | ")[8] for line in lines[2:4]] == ["300", "-"]
    assert len({line.count("|") for line in lines[:4]}) == 1
    assert lines[2].startswith("| fixed | 2 | 0.9050 ± 0.0635 |")
    assert lines[3].endswith("| +0.0000 | - | - |")


def test_jobs_that_never_became_a_run_are_named(tmp_path):
    Sweep.record(tmp_path / "sweep", [["seed=1"], ["seed=2"]])
    run(tmp_path / "sweep" / "0", 0.9, typed=["seed=1"])
    assert jobs_without_run([tmp_path]) == [f"not started {tmp_path / 'sweep' / '1'}"]
    comparison = hold_against(compare([tmp_path / "sweep" / "0"]), missing=jobs_without_run([tmp_path]))
    assert comparison.unfinished == [f"not started {tmp_path / 'sweep' / '1'}"]
