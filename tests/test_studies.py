"""Studies: the search space, which trials are asked for, what ends early, and what a kill costs."""

import json
import os
import signal

import pytest
from commands import REPOSITORY, TINY, command, crescendo, train
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from test_sweeps import children, leave, start, statuses, until

from crescendo.errors import UserError
from crescendo.sweeps.jobs import locked
from crescendo.sweeps.record import StudySettings, Sweep
from crescendo.sweeps.space import Space, listed
from crescendo.sweeps.study import Study

SEARCH = ("sweep=optuna", *TINY, "logger=csv", "data.source.samples=400", "optimizer.weight_decay=0")
SETTINGS = {
    "n_trials": 4,
    "seed": 0,
    "metric": "val/accuracy",
    "direction": "maximize",
    "sampler": {"name": "TPESampler", "arguments": {"n_startup_trials": 2}},
    "pruner": {"name": "MedianPruner", "arguments": {"n_startup_trials": 2}},
    "space": ["optimizer.lr=tag(log,interval(0.001,0.1))", "trainer=cpu"],
}


def recorded(place, **settings):
    """A study of which nothing ran."""
    study = StudySettings.checked(SETTINGS | settings)
    return Sweep.record(place, [], study), Study(place, study)


def finish(sweep, number, accuracy, status="finished"):
    leave(sweep, number, status, {"status": status, "metrics": {"val/accuracy": accuracy}})


def states(study):
    return [trial.state for trial in study._study.get_trials()]


@pytest.mark.parametrize(
    ("value", "distribution"),
    [
        ("interval(0.1,1)", FloatDistribution(0.1, 1.0)),
        ("interval(1,8)", FloatDistribution(1.0, 8.0)),
        ("tag(log, interval(0.001,0.1))", FloatDistribution(0.001, 0.1, log=True)),
        ("int(interval(1,8))", IntDistribution(1, 8)),
        ("tag(log, int(interval(1,64)))", IntDistribution(1, 64, log=True)),
        ("int(tag(log, interval(1,64)))", IntDistribution(1, 64, log=True)),
        ("range(1,10,2)", IntDistribution(1, 9, step=2)),
        ("range(1,8,3)", IntDistribution(1, 7, step=3)),  # 1 4 7
        ("range(10,1,-3)", IntDistribution(4, 10, step=3)),
        ("tag(log, range(1,10))", IntDistribution(1, 9, log=True)),
        ("range(0.1,0.9,0.2)", FloatDistribution(0.1, 0.7, step=0.2)),
        ("choice(relu,silu)", CategoricalDistribution(("relu", "silu"))),
        ("3,1,2", CategoricalDistribution(("1", "2", "3"))),
        ("shuffle(3,1,2)", CategoricalDistribution(("1", "2", "3"))),
        ("'a b',c", CategoricalDistribution(("'a b'", "c"))),
        ("[1,2],[3]", CategoricalDistribution(("[1,2]", "[3]"))),
    ],
)
def test_a_sweep_has_its_distribution(value, distribution):
    assert Space.parse([f"key={value}"]).searched == {"key": distribution}


def test_what_is_typed_last_counts_and_what_is_fixed_stays():
    overrides = ["a=interval(1,2)", "b=1,2", "seed=3", "b=7", "+c=x,y"]
    space = Space.parse(listed(OverridesParser.create().parse_overrides(overrides)))
    assert space.searched == {"a": FloatDistribution(1.0, 2.0), "+c": CategoricalDistribution(("x", "y"))}
    assert space.overrides({"a": 1.5, "+c": "y"}) == ["b=7", "seed=3", "a=1.5", "+c=y"]
    assert space.corners() == [["b=7", "seed=3", "a=1.0", "+c=x"], ["b=7", "seed=3", "a=1.0", "+c=y"]]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=1", "a study has nothing to search"),
        ("lr=tag(often, interval(0,1))", "the only tag is log"),
        ("lr=tag(log, interval(0,1))", "lr=tag\\(log, interval\\(0,1\\)\\): .*low > 0.*must hold"),
        ("lr=interval(2,1)", "lr=interval\\(2,1\\): .*low <= high"),
        ("lr=tag(log, choice(1,2))", "a choice has no logarithm"),
        ("lr=tag(log, range(0.1,1,0.1))", "take an interval"),
        ("lr=range(3,3)", "the range is empty"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(override, message):
    with pytest.raises(UserError, match=message):
        Space.parse([override])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_trials": 0}, "hydra.sweeper.study.n_trials=0: should be greater than 0"),
        ({"metric": "accuracy"}, "hydra.sweeper.study.metric=accuracy: should be 'val/accuracy'"),
        ({"pruner": {"name": "os"}}, "hydra.sweeper.study.pruner.name=os: should be 'MedianPruner'"),
        ({"pruner": {"name": "NopPruner", "arguments": {"a": 1}}}, "study.pruner: .*'?a'?"),
        ({"sampler": {"name": "CmaEsSampler"}}, "study.sampler.name=CmaEsSampler"),  # unpickles from study.db
    ],
)
def test_settings_that_are_wrong_are_named(tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        Study(tmp_path, StudySettings.checked(SETTINGS | settings))


def test_a_resumed_study_asks_for_what_is_left_and_does_not_draw_again(tmp_path):
    sweep, study = recorded(tmp_path / "study")
    assert list(study.ask(3)) == [0, 1, 2]
    finish(sweep, 0, 0.5)
    leave(sweep, 1, "failed")
    leave(sweep, 2, "running")  # nobody holds it: it was killed
    study.settle()
    assert states(study) == [TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING]
    killed = sweep.known_jobs()[2]

    resumed = Study(sweep.directory, sweep.study)
    assert sweep.to_run() == {2: killed}  # with its parameters; a trial that failed is a result
    with locked(sweep.directory / "2"):
        assert sweep.to_run() == {}
    assert list(resumed.ask(9)) == [3]
    assert resumed.ask(1) == {}
    drawn = [overrides[-1] for overrides in sweep.known_jobs().values()]
    assert len(set(drawn)) == 4
    assert "1 of 4" not in (unfinished := sweep.unfinished() or "")
    assert "job 1 failed: trainer=cpu optimizer.lr=" in unfinished

    finish(sweep, 2, 0.6)
    finish(sweep, 3, 0.1, status="pruned")
    resumed.settle()
    assert states(resumed) == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE, TrialState.PRUNED]
    assert resumed._study.best_trial.number == 2
    assert "sweep resume" not in (sweep.unfinished() or "")  # there is nothing left to run
    shown = crescendo("sweep", "status", str(sweep.directory), cwd=tmp_path)
    assert "2 of 4 jobs finished, 1 pruned; best: job 2" in shown.stdout, shown.stderr


def test_the_same_seed_draws_the_same_and_another_one_others(tmp_path):
    places = {"a": 0, "b": 0, "c": 1}
    first, same, other = (recorded(tmp_path / name, seed=seed)[1].ask(3) for name, seed in places.items())
    assert first == same
    assert not {jobs[-1] for jobs in first.values()} & {jobs[-1] for jobs in other.values()}


def test_a_trial_below_the_median_is_given_up(tmp_path):
    sweep, study = recorded(tmp_path / "study")
    for number, accuracies in {0: (0.4, 0.6), 1: (0.6, 0.8)}.items():
        study.ask(1)
        assert not any(study.hopeless(number, epoch, value) for epoch, value in enumerate(accuracies))
        finish(sweep, number, accuracies[-1])
        study.settle()
    study.ask(1)
    assert not study.hopeless(2, 0, 0.55)  # the median of 0.4 and 0.6 is 0.5
    assert not study.hopeless(2, 0, 0.55)  # an interrupted trial comes by again
    assert study.hopeless(2, 1, 0.65)  # of 0.6 and 0.8: 0.7
    finish(sweep, 2, 0.65, status="pruned")
    study.settle()
    assert not study.hopeless(2, 2, 0.0)  # the study is done with it


def test_a_missing_optuna_and_a_misspelt_option_stop_before_the_first_trial(tmp_path):
    hidden = "import runpy, sys; sys.modules['optuna'] = None; sys.argv = sys.argv[1:]; "
    hidden += "runpy.run_path(sys.argv[0], run_name='__main__')"
    script = REPOSITORY / "train.py"
    missing = command("-c", hidden, str(script), "sweep=optuna", cwd=tmp_path)
    assert missing.returncode == 2
    assert 'error: sweep=optuna needs pip install "crescendo[sweeps]"' in missing.stderr
    misspelt = train("sweep=optuna", "model=lenet5,resnt20", cwd=tmp_path)
    assert misspelt.returncode == 2
    assert "model=resnt20: there is no such option" in misspelt.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_trial_that_does_not_learn_is_pruned(tmp_path, devices):
    pruner = ("hydra.sweeper.study.pruner.name=ThresholdPruner", "hydra.sweeper.study.n_trials=2")
    lower = "+hydra.sweeper.study.pruner.arguments.lower=0.3"
    search = (*SEARCH, *pruner, lower, "optimizer.lr=0.0000001,0.05")
    result = train(*search, f"trainer.devices={devices}", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (sweep,) = (file.parent for file in tmp_path.rglob("sweep.yaml"))
    trained = {job.overrides[-1]: job for job in Sweep.read(sweep).all_jobs()}
    learnt, hopeless = trained["optimizer.lr=0.05"], trained["optimizer.lr=1e-07"]
    assert (learnt.status, hopeless.status) == ("finished", "pruned")
    assert learnt.value is not None
    assert learnt.value > 0.3 > (hopeless.value or 0.0)
    trials = Study.read(sweep)._study.get_trials()
    assert [len(trials[job.number].intermediate_values) for job in (learnt, hopeless)] == [2, 1]  # epochs
    assert not (hopeless.directory / "confusion_matrix.csv").exists()
    again = crescendo("sweep", "resume", str(sweep), cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert {path.name for path in sweep.iterdir() if path.is_dir()} == {"0", "1", ".locks"}


@pytest.mark.slow
def test_a_study_that_is_killed_and_resumed_runs_each_trial_once(tmp_path):
    search = (*SEARCH, "hydra.sweeper.study.n_trials=4", "optimizer.lr=tag(log, interval(0.001,0.1))")
    process, sweep = start(*search, cwd=tmp_path)
    until(lambda: (sweep / "1" / "config.yaml").exists(), 120)
    (job,) = children(process)
    process.kill()
    process.wait()
    os.killpg(job, signal.SIGKILL)
    until(lambda: statuses(sweep) == ["finished", "interrupted"])
    finished = (sweep / "0" / "job.json").read_text()
    killed = (sweep / "1" / "overrides.yaml").read_text()

    resumed = crescendo("sweep", "resume", str(sweep), cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert statuses(sweep) == ["finished"] * 4
    assert (sweep / "0" / "job.json").read_text() == finished
    assert (sweep / "1" / "overrides.yaml").read_text() == killed
    jobs = Sweep.read(sweep).all_jobs()
    assert len({job.overrides[-1] for job in jobs}) == 4
    study = Study.read(sweep)
    assert states(study) == [TrialState.COMPLETE] * 4
    for job, trial in zip(jobs, study._study.get_trials(), strict=True):
        summary = json.loads((job.directory / "summary.json").read_text())
        assert trial.value == summary["metrics"]["val/accuracy"]
        assert list(trial.intermediate_values) == [0, 1]  # one for each epoch
