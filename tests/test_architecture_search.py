"""The search for a net: what a trial is worth, which nets there are, a front, and the winner as a yaml."""

import json
from types import SimpleNamespace

import pytest
from commands import TINY, crescendo, train
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import TrialState
from test_config import REPOSITORY
from test_studies import SETTINGS, leave, recorded
from test_sweeps import statuses

from crescendo import step_time
from crescendo.analysis.costs import count_parameters, shapes_of
from crescendo.errors import UserError
from crescendo.experiment import build_net, count_configured_macs
from crescendo.models import create_model
from crescendo.runs import Run
from crescendo.step_time import StepTime
from crescendo.sweeps import study as studies
from crescendo.sweeps.nets import best_job, conclude, widened, write_net
from crescendo.sweeps.objective import Weighed, weighed
from crescendo.sweeps.record import StudySettings, Sweep
from crescendo.sweeps.space import Space
from crescendo.sweeps.table import show_sweep

FASHION = ("experiment=architecture_search", "name=search")
BASE_MACS = 6_891_584  # rows/small, 28 px, one channel, ten classes
FRONT = {"front": ["macs"], "pruner": {"name": "NopPruner"}}
SEARCHED = ["model.stages.0.kernel_size=3,5", "model.stages.1.width=range(16,33,8)", "trainer=cpu"]


def sweeper(*overrides):
    """hydra.sweeper of a composed command."""
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        config = compose("train", list(overrides), return_hydra_config=True)
    return OmegaConf.to_container(config.hydra.sweeper, resolve=False), config


def finish(sweep, number, accuracy, **costs):
    leave(sweep, number, "finished", {"status": "finished", "metrics": {"val/accuracy": accuracy}, **costs})


def run_of(sweep, number, config, accuracy, macs):
    """A finished trial with the configuration that it trained."""
    finish(sweep, number, accuracy, macs=macs, parameters=183_826)
    OmegaConf.save(config, sweep.directory / str(number) / "config.yaml", resolve=True)


def test_an_objective_of_a_trial_by_hand():
    v1 = {"macs": Weighed(target=7e6, weight=-0.07)}
    assert weighed(0.8, {"macs": 7e6}, v1) == 0.8
    assert weighed(0.8, {"macs": 14e6}, v1) == pytest.approx(0.762110, abs=1e-6)  # 0.8 * 2^-0.07
    v2 = {
        "step_seconds": Weighed(target=0.02, weight=-0.07),
        "parameters": Weighed(target=2e5, weight=-0.05),
    }
    value = weighed(0.9, {"step_seconds": 0.04, "parameters": 4e5}, v2)
    assert value == pytest.approx(0.828169, abs=1e-6)  # 0.9 * 2^-0.12
    assert weighed(0.9, {}, {}) == 0.9


@pytest.mark.parametrize(
    ("objective", "weights", "front", "measured"),
    [
        ("v1", {"macs": -0.07}, [], False),
        ("v2", {"step_seconds": -0.07, "parameters": -0.05}, [], True),
        ("accuracy", {}, [], False),
        ("front", {}, ["macs"], False),
    ],
)
def test_the_papers_weights(objective, weights, front, measured):
    found, config = sweeper("sweep=architecture_search", f"sweep/objective={objective}")
    assert {name: term["weight"] for name, term in found["study"]["objective"].items()} == weights
    assert found["study"]["front"] == front
    assert config.measure_step is measured
    StudySettings.checked({**found["study"], "space": ["a=1,2"]})


@pytest.mark.parametrize(
    ("space", "stages", "width"),
    [
        ("small", 4, IntDistribution(48, 80, step=8)),  # around 64
        ("b0", 7, IntDistribution(64, 96, step=16)),  # around 80
    ],
)
def test_the_papers_choices_for_each_stage(space, stages, width):
    found, config = sweeper("sweep=architecture_search", f"sweep/space={space}")
    searched = Space.parse([f"{key}={value}" for key, value in found["params"].items()]).searched
    assert len(config.model.stages) == stages
    assert len(searched) == 6 * stages
    for stage, row in enumerate(config.model.stages):
        place = f"model.stages.{stage}"
        assert searched[f"{place}.block"] == CategoricalDistribution(("fused", "mbconv"))
        assert searched[f"{place}.expansion"] == CategoricalDistribution(("1", "4", "6"))
        assert searched[f"{place}.kernel_size"] == CategoricalDistribution(("3", "5"))
        assert searched[f"{place}.se_ratio"] == CategoricalDistribution(("0", "0.25"))
        for name in ("width", "depth"):  # the base is a net of the space
            assert searched[f"{place}.{name}"]._contains(row[name])
    assert searched["model.stages.3.width"] == width


def test_the_rows_of_b0_are_efficientnet_b0(configuration):
    rows = shapes_of(build_net, configuration("model=rows/b0", "data=imagenet", "data.root=x"))
    known = shapes_of(create_model, "efficientnet_b0")
    shapes = [{name: value.shape for name, value in net.state_dict().items()} for net in (rows, known)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"front": ["macs"]}, "pruner.name=MedianPruner: Optuna prunes studies with one objective alone"),
        (FRONT | {"front": ["macs", "macs"]}, "front=macs,macs: each cost once"),
        (FRONT | {"objective": {"macs": {"target": 1, "weight": -1}}}, "a front weighs nothing"),
        (FRONT | {"front": ["flops"]}, "front.0=flops: should be 'macs', 'parameters'"),
        ({"objective": {"flops": {"target": 1, "weight": -1}}}, "=flops: should be 'macs', 'parameters'"),
        ({"objective": {"macs": {"target": 1, "weight": 0.07}}}, "macs.weight=0.07: should be less than 0"),
        (
            {"objective": {"macs": {"target": 1, "weight": -1}}, "metric": "val/loss"},
            "weighs an accuracy that is to be large",
        ),
        (FRONT | {"sampler": {"name": "NSGAIISampler"}}, "first population of 50 at random: .*n_trials=4"),
        ({"max_macs": 0}, "max_macs=0: should be greater than 0"),
    ],
)
def test_settings_that_do_not_go_together_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        StudySettings.checked(SETTINGS | settings)


def test_a_trial_is_worth_its_accuracy_by_what_its_net_costs(tmp_path):
    objective = {"macs": {"target": 100.0, "weight": -0.5}}
    sweep, study = recorded(tmp_path / "study", objective=objective)
    study.ask(3)
    finish(sweep, 0, 0.8, macs=400)  # 0.8 / 2
    finish(sweep, 1, 0.6, macs=100)
    study.settle()
    assert [trial.value for trial in study._study.get_trials()[:2]] == pytest.approx([0.4, 0.6])
    assert best_job(sweep).number == 1
    finish(sweep, 2, 0.9)
    with pytest.raises(UserError, match="2 does not have all of val/accuracy, macs"):
        study.settle()


def test_a_pareto_front_of_hand_made_trials(tmp_path, capsys):
    nsga = {"name": "NSGAIISampler", "arguments": {"population_size": 3}}
    sweep, study = recorded(tmp_path / "study", n_trials=7, sampler=nsga, **FRONT)
    trials = [(0.70, 100), (0.80, 300), (0.75, 300), (0.90, 900), (0.60, 100), (0.85, 1000), (0.69, 90)]
    for number, (accuracy, macs) in enumerate(trials):
        assert list(study.ask(1)) == [number]
        assert not study.hopeless(number, 0, 0.0)  # nothing is pruned
        finish(sweep, number, accuracy, macs=macs)
        study.settle()
    assert study.front() == [0, 1, 3, 6]
    told = conclude(sweep, study.front())
    front = [line.split(",") for line in (sweep.directory / "front.csv").read_text().splitlines()]
    assert front[0] == ["job", "val/accuracy", "macs"]
    assert [(int(job), float(macs)) for job, _, macs in front[1:]] == [(3, 900), (1, 300), (0, 100), (6, 90)]
    assert "job 6, val/accuracy 0.6900, macs 90" in told
    assert "python train.py" not in told  # no net was searched
    heading, table = show_sweep(sweep).renderables
    assert "Pareto front: jobs 0, 1, 3, 6" in heading
    assert [column.header for column in table.columns][1:5] == ["overrides", "status", "val/accuracy", "macs"]
    with pytest.raises(UserError, match="a front, which has no best: give --trial"):
        best_job(sweep)


def test_nets_over_the_limit_are_drawn_again(tmp_path, monkeypatch):
    """The second and third of six draws are too large, and of the fourth only its parameters are known."""
    sweep, study = recorded(tmp_path / "study", max_macs=100, n_trials=3)
    costs = iter([100, 101, 200])
    with pytest.raises(StopIteration):  # a kill while the fourth is counted
        study.ask(2, lambda overrides: next(costs))
    assert list(study.known_jobs()) == [0]
    study.settle()
    assert list(study.ask(9, lambda overrides: 50)) == [4, 5]
    states = [trial.state for trial in study._study.get_trials()]
    assert states[1:4] == [TrialState.FAIL] * 3
    assert list(sweep.known_jobs()) == [0, 4, 5]
    monkeypatch.setattr(studies, "MOST_REFUSED", 2)
    with pytest.raises(UserError, match="max_macs=100: 2 nets in a row have more, the last one 101"):
        recorded(tmp_path / "other", max_macs=100)[1].ask(1, lambda overrides: 101)


def test_the_best_net_is_an_option_of_model(tmp_path, configuration):
    searched = [*FASHION, "model.stages.1.block=fused", "model.stages.1.width=32", "model.stages.2.depth=3"]
    sweep, study = recorded(tmp_path / "study", space=SEARCHED, n_trials=2)
    study.ask(2)
    run_of(sweep, 0, configuration(*searched), 0.9, 12_345_678)
    run_of(sweep, 1, configuration(*FASHION), 0.8, BASE_MACS)
    assert "2 of 2 jobs finished; best: job 0; all with trainer=cpu" in show_sweep(sweep).renderables[0]
    told = conclude(sweep, [])
    assert "best: job 0, val/accuracy 0.9000" in told
    assert f"python train.py --config-dir {sweep.directory} model=best" in told
    first = (sweep.directory / "model" / "best.yaml").read_text().splitlines()[0]
    assert first.startswith("# Trial 0 of study: val/accuracy 0.9000; 183,826 parameters and 12,345,678 MACs")
    assert first.endswith("at 28 px, as it was searched.")

    path = f"hydra.searchpath=[file://{sweep.directory}]"
    for data in ("fashion_mnist", "cifar100"):  # classes and channels are the data's
        taken = configuration(path, "model=best", f"data={data}")
        own = configuration(*searched, f"data={data}")
        assert OmegaConf.to_container(taken.model) == OmegaConf.to_container(own.model)
        assert count_parameters(build_net(taken)) == count_parameters(build_net(own))


def test_a_net_is_widened_up_to_the_macs_of_another(tmp_path, configuration):
    base = configuration(*FASHION)
    assert count_configured_macs(base) == BASE_MACS
    model, factor, macs = widened(base, BASE_MACS)
    assert macs == BASE_MACS
    assert model["stages"] == OmegaConf.to_container(base.model)["stages"]
    twice, factor, macs = widened(base, 4 * BASE_MACS)
    assert 1.8 < factor < 2.2
    assert 0.99 < macs / (4 * BASE_MACS) <= 1
    assert twice["stem"] == 32
    wider, factor, macs = widened(base, 3 * BASE_MACS // 2)
    assert factor == 1.11  # 1.12 widens the first stage by half, and is beyond
    assert wider["stem"] == 24
    assert 0.97 < macs / (3 * BASE_MACS // 2) <= 1
    with pytest.raises(UserError, match="--macs 1000: the net has"):
        widened(base, 1000)
    with pytest.raises(UserError, match="resnet20 has no rows"):
        widened(configuration("model=resnet20"), 1000)

    sweep, study = recorded(tmp_path / "study", space=SEARCHED, n_trials=1)
    study.ask(1)
    run_of(sweep, 0, base, 0.9, BASE_MACS)
    place = tmp_path / "nets"
    assert write_net(sweep, best_job(sweep), place, "twice", 2 * BASE_MACS).endswith("nets model=twice")
    assert "of 13,783,168 that were allowed" in (place / "model" / "twice.yaml").read_text()
    with pytest.raises(UserError, match="is there already, and another net: give another --name"):
        write_net(sweep, best_job(sweep), place, "twice")
    with pytest.raises(UserError, match=r"--trial 3: .* finished: 0"):
        best_job(sweep, 3)


@pytest.mark.parametrize(
    ("batches", "parts", "calls", "seconds"),
    [
        (20, 1, 10, 5.5),  # the 4th to the 13th step, of 1 to 10 s
        (12, 2, 3, 2.0),  # of six steps the 4th to the last, from their first part to their last
        (1, 1, 1, 1.0),
    ],
)
def test_a_step_is_the_median_of_ten_behind_the_first_three(
    tmp_path, monkeypatch, batches, parts, calls, seconds
):
    clock = iter([100.0 + took for number in range(1, 99) for took in (0, number)])
    monkeypatch.setattr(step_time, "now", lambda device: next(clock))
    timer = StepTime(Run(tmp_path))

    def epoch(resolution):
        trainer = SimpleNamespace(num_training_batches=batches, accumulate_grad_batches=parts)
        classifier = SimpleNamespace(device="cpu", stage=SimpleNamespace(resolution=resolution))
        for batch in range(batches):
            timer.on_train_batch_start(trainer, classifier, None, batch)
            timer.on_train_batch_end(trainer, classifier, None, None, batch)

    epoch(16)
    assert timer.run.summary == {"step_seconds": seconds}
    epoch(16)
    epoch(32)  # another resolution begins anew
    assert len(timer.state_dict()["seconds"]) == calls
    assert timer.run.summary["step_seconds"] == 2 * calls + seconds
    resumed = StepTime(Run(tmp_path))
    resumed.load_state_dict(timer.state_dict())
    assert resumed.run.summary == timer.run.summary


def test_steps_that_are_not_measured_are_refused_before_the_first_trial(tmp_path):
    result = train("sweep=architecture_search", "sweep/objective=v2", "measure_step=false", cwd=tmp_path)
    assert result.returncode == 2
    assert "step_seconds, which is not measured: add measure_step=true" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_search_that_is_resumed_ends_with_a_net_that_trains(tmp_path):
    tiny = (*[item for item in TINY if not item.startswith(("model", "curriculum"))], "logger=csv")
    search = ("sweep=architecture_search", "sweep/objective=v2", "curriculum=at_28px", *tiny)
    study = ("hydra.sweeper.study.n_trials=2", "hydra.sweeper.study.max_macs=9e6")
    result = train(*search, *study, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (sweep,) = (file.parent for file in tmp_path.rglob("sweep.yaml"))
    jobs = Sweep.read(sweep).all_jobs()
    assert statuses(sweep) == ["finished"] * 2
    for job in jobs:
        summary = json.loads((job.directory / "summary.json").read_text())
        assert 0 < summary["step_seconds"] < 60
        assert summary["macs"] <= 9e6
        costs = (summary["step_seconds"] / 0.02) ** -0.07 * (summary["parameters"] / 2e5) ** -0.05
        assert job.value == pytest.approx(job.metric * costs)
    best = max(jobs, key=lambda job: job.value or 0.0)
    assert f"best: job {best.number}, " in result.stdout

    (sweep / "model" / "best.yaml").unlink()
    again = crescendo("sweep", "resume", str(sweep), cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert Sweep.read(sweep).all_jobs() == jobs
    assert (sweep / "model" / "best.yaml").exists()
    written = crescendo("sweep", "net", str(sweep), "--macs", "6M", "--name", "wider", cwd=tmp_path)
    assert written.returncode == 0, written.stderr
    assert written.stdout == f"python train.py --config-dir {sweep} model=wider\n"
    taken = written.stdout.split()[2:]
    trained = train(*taken, "curriculum=at_28px", *tiny, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    (run,) = tmp_path.glob("runs/synthetic_wider/*/summary.json")
    assert 5e6 < json.loads(run.read_text())["macs"] <= 6e6
