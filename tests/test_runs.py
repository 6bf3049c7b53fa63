import json
import logging
from signal import SIGTERM

import pytest
from omegaconf import OmegaConf

from crescendo import runs
from crescendo.errors import Interrupted, UserError

CONFIG = OmegaConf.create({"data": {"name": "x"}, "model": {}, "seed": "${data.name}"})


def record(directory, error=None):
    with runs.recording(directory, CONFIG, ["seed=1"], {"model": "lenet5"}, rank_zero=True) as run:
        run.summary["parameters"] = 7
        logging.getLogger("crescendo.somewhere").warning("a line")
        if error is not None:
            raise error
    return run


def test_two_runs_of_one_second_get_two_directories(tmp_path):
    assert len({runs.new_directory(tmp_path / "a") for _ in range(8)}) == 8


def test_a_directory_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Set runs_dir="):
        runs.new_directory(tmp_path / "file" / "runs")


def test_a_finished_run_leaves_its_records(tmp_path):
    record(tmp_path)
    summary = runs.read_summary(tmp_path)
    assert list(summary) == list(runs.SUMMARY)
    assert (summary["status"], summary["error"], summary["parameters"]) == ("finished", None, 7)
    assert summary["seconds"] > 0
    assert summary["packages"]["torch"]
    assert OmegaConf.load(tmp_path / "config.yaml").seed == "x"  # resolved
    assert OmegaConf.load(tmp_path / "overrides.yaml") == ["seed=1"]
    assert runs.read_choices(tmp_path) == {"model": "lenet5"}
    assert "a line" in (tmp_path / "train.log").read_text()


def test_a_run_that_is_resumed_has_its_choices_on_record(tmp_path):
    record(tmp_path)
    resumed = OmegaConf.merge(CONFIG, {"resume": str(tmp_path)})
    with runs.recording(tmp_path, resumed, [], {"model": "resnet20"}, rank_zero=True) as run:
        assert run.choices == {"model": "lenet5"}
    assert runs.read_choices(tmp_path) == {"model": "lenet5"}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ZeroDivisionError("by 0"), "failed"),
        (KeyboardInterrupt(), "interrupted"),
        (Interrupted(SIGTERM), "interrupted"),
    ],
)
def test_a_run_that_ends_early_says_so(tmp_path, error, status):
    with pytest.raises(type(error)):
        record(tmp_path, error)
    summary = runs.read_summary(tmp_path)
    assert summary["status"] == status
    assert summary["error"]
    assert ("ZeroDivisionError" in (tmp_path / "train.log").read_text()) == (status == "failed")


def test_other_ranks_write_nothing(tmp_path):
    with runs.recording(tmp_path, CONFIG, [], rank_zero=False):
        pass
    assert list(tmp_path.iterdir()) == []


def test_runs_are_found_at_any_depth_each_once(tmp_path):
    for name in ("a", "b/0", "b/1"):
        (tmp_path / name).mkdir(parents=True)
        record(tmp_path / name)
    found = runs.find_runs([tmp_path, tmp_path / "b"])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["a", "b/0", "b/1"]


def test_an_earlier_attempt_of_a_job_is_no_run_beside_it(tmp_path):
    for name in ("0", "0.failed-1", "0.interrupted-1"):
        (tmp_path / name).mkdir()
        record(tmp_path / name)
    assert runs.find_runs([tmp_path]) == [tmp_path / "0"]
    assert runs.find_runs([tmp_path / "0.failed-1"]) == [tmp_path / "0.failed-1"]


def test_what_is_no_run_is_refused_by_name(tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match=r"rnu is not a directory\. Did you mean run"):
        runs.read_config(tmp_path / "rnu")
    with pytest.raises(UserError, match=r"is not a run directory: it has no config\.yaml"):
        runs.read_config(tmp_path / "run")
    with pytest.raises(UserError, match="holds no run"):
        runs.find_runs([tmp_path])
    with pytest.raises(UserError, match="has no checkpoint"):
        runs.best_checkpoint(tmp_path / "run")


@pytest.mark.parametrize("content", ["a: [", "- 1\n- 2", "\0", "other: 1"])
def test_an_unreadable_configuration_is_refused(tmp_path, content):
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(UserError, match=r"config\.yaml"):
        runs.read_config(tmp_path)


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_an_unreadable_summary_is_refused(tmp_path, content):
    (tmp_path / "summary.json").write_text(content)
    with pytest.raises(UserError, match=r"summary\.json"):
        runs.read_summary(tmp_path)


def test_a_run_without_summary_is_unfinished(tmp_path):
    assert runs.read_summary(tmp_path)["status"] == "unfinished"


def test_a_summary_is_whole_or_not_there(tmp_path):
    with pytest.raises(TypeError):
        runs.write_summary(tmp_path, {"path": tmp_path})
    assert not (tmp_path / "summary.json").exists()
    runs.write_summary(tmp_path, {"status": "finished"})
    assert json.loads((tmp_path / "summary.json").read_text()) == {"status": "finished"}


def test_a_summary_is_json_also_where_a_loss_was_not_finite(tmp_path):
    runs.write_summary(
        tmp_path, {"seconds": 1.5, "metrics": {"test/loss": float("nan"), "test/accuracy": 0.1}}
    )
    written = json.loads((tmp_path / "summary.json").read_text(), parse_constant=pytest.fail)
    assert written == {"seconds": 1.5, "metrics": {"test/loss": None, "test/accuracy": 0.1}}
