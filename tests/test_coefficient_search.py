"""sweep=compound_coefficients, driven as a user drives it: its candidates, a kill, its winner."""

import csv
import json
import os
import shlex
import signal

import pytest
import yaml
from commands import REPOSITORY, crescendo, train
from test_sweeps import children, leave, start, statuses, until

from crescendo.errors import UserError
from crescendo.scaling.candidates import Candidate, LeftOut, Net, Search, SearchSettings, Triple
from crescendo.sweeps.record import Sweep
from crescendo.sweeps.winner import Outcome

TINY = (
    *("data=synthetic", "data.source.samples=160", "data.batch_size=32", "model=resnet20", "model.width=8"),
    *("curriculum=constant", "curriculum.resolution.end=16", "trainer=cpu", "trainer.max_epochs=1"),
    *("logger=csv", "trainer.enable_progress_bar=false"),
)
SEARCH = ("sweep=compound_coefficients", "hydra.sweeper.coefficients.step=1", *TINY)
NET = Net(resolution=16, macs=100, parameters=10)
PAPER = Triple(alpha=1.2, beta=1.1, gamma=1.15)
# The second is the paper's, under another name.
CANDIDATES = [
    Candidate(alpha=2, beta=1, gamma=1, by_gamma=NET, solved=NET, same=[]),
    Candidate(alpha=1.1, beta=1.1, gamma=1.2, by_gamma=NET, solved=NET, same=[PAPER]),
    Candidate(alpha=1, beta=1.4, gamma=1, by_gamma=NET, solved=NET, same=[]),
]


def searched(place, accuracies, candidates=CANDIDATES):
    """A sweep whose jobs had these validation accuracies, by seed and candidate; None for one that failed."""
    search = Search(
        settings=SearchSettings(step=0.2, tolerance=0.05, macs=None, macs_tolerance=0.1),
        base=Net(resolution=14, macs=50, parameters=10),
        macs=100,
        native_size=28,
        candidates=candidates,
        left_out=[LeftOut(alpha=2.1, beta=1, gamma=1, why="too much")],
    )
    typed = ["sweep=compound_coefficients", "name=a b", "trainer=cpu"]
    jobs = [[f"seed={seed}", *typed, *each.overrides] for seed in accuracies for each in candidates]
    sweep = Sweep.record(place, jobs, search=search)
    for number, accuracy in enumerate(value for values in accuracies.values() for value in values):
        seed = list(accuracies)[number // len(candidates)]
        metrics = {} if accuracy is None else {"val/accuracy": accuracy, "test/accuracy": accuracy - 0.1}
        status = "failed" if accuracy is None else "finished"
        leave(sweep, number, status, {"status": status, "metrics": metrics})
        (place / str(number) / "config.yaml").write_text(
            yaml.safe_dump({"seed": seed, "data": {}, "model": {}})
        )
    assert Sweep.read(place) == sweep
    return sweep


def test_the_winner_and_its_leads_by_hand(tmp_path):
    outcome = Outcome.read(
        searched(tmp_path, {1: [0.78, 0.70, 0.80], 2: [0.79, 0.71, 0.82], 5: [0.83, 0.74, 0.84]})
    )
    assert [each.candidate for each in outcome.standings] == [CANDIDATES[place] for place in (2, 0, 1)]
    none, second, paper = outcome.leads
    assert none is None
    # .02 .03 .01: deviation .01, t = 2 sqrt(3); with 2 degrees of freedom p = 1 - t / sqrt(2 + t^2), and the
    # 97.5% quantile is 4.3027
    assert second.difference == pytest.approx((0.02, 4.3027 * 0.01 / 3**0.5), rel=1e-4)
    assert second.p == pytest.approx(1 - 12**0.5 / 14**0.5)
    assert not second.is_more_than_noise
    # .10 .11 .10: t = 31; the smaller of two p values counts twice
    assert paper.p == pytest.approx(2 * (1 - 31 / 963**0.5))
    assert paper.is_more_than_noise
    told = "\n".join(outcome.sentences)
    assert "winner of 3: alpha=1 beta=1.4 gamma=1 at 16 px, validation accuracy 0.8200 ± 0.0497" in told
    assert "test 0.7200 (seed 1, 2, 5)" in told
    assert "over the second, alpha=2 beta=1 gamma=1: +0.0200 ± 0.0248" in told
    assert "(paired seeds: 3; p 0.074): not more than noise" in told
    assert (
        "over the paper's 1.2, 1.1, 1.15: +0.1033 ± 0.0143 (paired seeds: 3; p 0.002): more than noise"
        in told
    )


def test_what_has_fewer_seeds_does_not_win(tmp_path):
    outcome = Outcome.read(searched(tmp_path, {1: [0.7, 0.6, 0.9], 2: [0.7, 0.8, None]}))
    assert outcome.standings[-1].candidate == CANDIDATES[2]
    assert outcome.leads[-1].difference.mean == pytest.approx(0.7 - 0.9)
    assert not outcome.leads[-1].is_more_than_noise


def test_the_paper_may_win_and_may_be_left_out(tmp_path):
    outcome = Outcome.read(searched(tmp_path / "a", {1: [0.7, 0.9, 0.8]}))
    assert "its net is that of the paper's 1.2, 1.1, 1.15" in outcome.sentences
    assert any("one seed does not tell it from noise" in line for line in outcome.sentences)
    without = Outcome.read(searched(tmp_path / "b", {1: [0.7]}, CANDIDATES[:1]))
    assert without.paper is None
    assert without.leads == [None]


def test_before_a_job_is_validated_there_is_no_winner(tmp_path):
    outcome = Outcome.read(searched(tmp_path, {1: [None, None, None]}))
    assert (outcome.winner, outcome.command) == (None, None)
    assert outcome.sentences == ["no finished job was validated yet"]


def test_the_winner_from_the_sweeps_directory_as_files(tmp_path):
    searched(tmp_path / "sweep", {1: [0.78, 0.70, 0.80], 2: [0.79, 0.71, 0.82]})
    told = crescendo("sweep", "coefficients", "sweep", "--csv", "a.csv", "--markdown", "a.md", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert "left out: 2.1 1 1: too much" in told.stdout
    command = shlex.split(told.stdout.splitlines()[-1])
    assert command == [
        *("python", "train.py", "name=a b", "trainer=cpu", "scaling=compound"),
        *("scaling.alpha=1.0", "scaling.beta=1.4", "scaling.gamma=1.0", "scaling.resolution=16"),
    ]
    rows = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    assert [(row["beta"], row["seed"], row["validation_accuracy"]) for row in rows] == [
        *(("1.4", "1", "0.8"), ("1.4", "2", "0.82"), ("1.0", "1", "0.78"), ("1.0", "2", "0.79")),
        *(("1.1", "1", "0.7"), ("1.1", "2", "0.71")),
    ]
    lines = (tmp_path / "a.md").read_text().splitlines()
    assert lines[0].startswith("| coefficients | product | px by gamma | x base | px | MACs | of target |")
    assert lines[2].startswith("| 1 1.4 1 | 1.960 | 16 | 2.00 | 16 | 100 | 1.000 | 10 | 2 | 0.8100 ±")


def test_another_sweep_has_no_winner(tmp_path):
    with pytest.raises(UserError, match="searches no coefficients, as sweep=compound_coefficients does"):
        Outcome.read(Sweep.record(tmp_path, [["seed=1"]]))


def test_a_plan_shows_the_candidates_and_trains_none(tmp_path):
    result = train(*SEARCH, "plan=true", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    rows = [line.strip("│").split("│") for line in result.stdout.splitlines() if line.startswith("│")]
    # Three stages of 3 blocks: 4 for alpha 1.2, 6 for 2. 8 filters times 1.1 stay 8.
    assert [[row[0].strip(), row[1].strip(), row[2].strip()] for row in rows] == [
        ["1.2 1.1 1.15", "1.920", "18"],
        ["2 1 1", "2.000", "16"],
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hydra.sweeper.coefficients.step=0"], "hydra.sweeper.coefficients.step=0: should be greater"),
        (["model.width=8,16"], "searches for one net, with several seeds: model.width differ"),
    ],
)
def test_a_mistake_stops_before_the_first_job(arguments, message, tmp_path):
    result = train(*SEARCH, *arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_search_that_is_killed_goes_on_to_its_winner(tmp_path):
    process, sweep = start(*SEARCH, "seed=1,2", cwd=tmp_path)
    until(lambda: (sweep / "1" / "config.yaml").exists(), 120)
    (job,) = children(process)
    process.kill()
    process.wait()
    os.killpg(job, signal.SIGKILL)
    until(lambda: statuses(sweep)[1] == "interrupted")
    resumed = crescendo("sweep", "resume", str(sweep), cwd=REPOSITORY)
    assert resumed.returncode == 0, resumed.stderr
    assert statuses(sweep) == ["finished"] * 4
    assert "winner of 2: alpha=" in resumed.stdout
    run = sweep / "0"  # the paper's, at the resolution that was solved
    summary = json.loads((run / "summary.json").read_text())
    search = Sweep.read(sweep).search
    assert summary["macs"] == search.candidates[0].solved.macs
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["scaling"]["resolution"] == search.candidates[0].solved.resolution
    evaluated = crescendo("evaluate", str(run), "--json", cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    again = json.loads(evaluated.stdout)["metrics"]["test/accuracy"]
    assert again == pytest.approx(summary["metrics"]["test/accuracy"], abs=1e-6)
    compared = crescendo("compare", str(sweep), "--markdown", "table.md", cwd=tmp_path)
    assert compared.returncode == 0, compared.stderr
    assert "scaling.resolution" in (tmp_path / "table.md").read_text()
