"""Sweeps, driven as a user drives them: jobs that fail, a sweep that is killed, and going on with it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml
from commands import REPOSITORY, TINY, command, crescendo, only_run, train
from omegaconf import OmegaConf
from whole_runs import TRAINING, assert_same_end

from crescendo import resolvers  # noqa: F401  # what conf/ interpolates
from crescendo.errors import EXIT_CODE, UserError
from crescendo.processes import Ended
from crescendo.ranks import new_run_directory
from crescendo.sweeps.jobs import locked, outcome, quoted
from crescendo.sweeps.record import Sweep
from crescendo.sweeps.resuming import resume_sweep

QUICK = (*TINY, "trainer.max_steps=2", "logger=csv", "trainer.enable_progress_bar=false")


def sweep_directory() -> str:
    """The template of a sweep's directory, with the time of one second."""
    config = OmegaConf.to_container(OmegaConf.load(REPOSITORY / "conf" / "train.yaml"))
    return config["hydra"]["sweep"]["dir"].replace("${now:%Y-%m-%d_%H-%M-%S}", "2026-01-01_00-00-00")


def recorded(place: Path, jobs: int = 3) -> Sweep:
    """A sweep of which nothing ran."""
    place.mkdir(parents=True)
    return Sweep.record(place, [["data=digits", f"seed={number}"] for number in range(jobs)])


def leave(sweep: Sweep, number: int, status: str, summary: dict | None = None) -> None:
    """What a job leaves behind."""
    directory = sweep.directory / str(number)
    directory.mkdir(exist_ok=True)
    (directory / "job.json").write_text(json.dumps({"status": status}))
    if summary is not None:
        (directory / "summary.json").write_text(json.dumps(summary))


def statuses(directory: Path) -> list[str]:
    return [job.status for job in Sweep.read(directory).all_jobs()]


def start(*overrides: str, cwd: Path) -> tuple[subprocess.Popen[bytes], Path]:
    """A sweep that goes on beside the test, and its directory."""
    process = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "train.py"), *overrides],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1", "LOCAL_RANK": "0", "MASTER_PORT": "1"},  # must not leak
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return process, until(lambda: next(cwd.rglob("sweep.yaml"), None)).parent


def until(found, seconds: float = 60):
    """Wait for something to be true, and return it."""
    deadline = time.monotonic() + seconds
    while not (answer := found()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return answer


def children(process: subprocess.Popen[bytes]) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


@pytest.mark.slow
def test_six_jobs_on_one_and_two_devices_killed_and_resumed(tmp_path):
    # lenet5 takes 32 px only: it fails at the first stage's 28.
    swept = ("-m", "trainer.devices=1,2", "model=lenet5_modern,lenet5,resnet20", *QUICK[:3], *QUICK[4:])
    process, sweep = start(*swept, cwd=tmp_path)
    until(lambda: (sweep / "3" / "config.yaml").exists(), 120)
    (job,) = children(process)
    process.kill()
    process.wait()
    expected = ["finished", "failed", "finished", "running", "not started", "not started"]
    assert statuses(sweep) == expected  # the job outlives the sweep
    os.killpg(job, signal.SIGKILL)
    until(lambda: statuses(sweep)[3] == "interrupted")
    finished = {number: (sweep / number / "job.json").read_text() for number in "02"}
    killed = (sweep / "3" / "config.yaml").read_text()

    resumed = crescendo("sweep", "resume", str(sweep), cwd=REPOSITORY)
    assert resumed.returncode == 2
    assert statuses(sweep) == ["finished", "failed", "finished", "finished", "failed", "finished"]
    assert "error: 2 of 6 jobs are not finished." in resumed.stderr
    for number, devices in ((1, 1), (4, 2)):
        assert f"job {number} failed: trainer.devices={devices} model=lenet5 " in resumed.stderr
        assert f"in {sweep / str(number)}: lenet5 takes 32 px only, stage 0 uses 28" in resumed.stderr
    assert {number: (sweep / number / "job.json").read_text() for number in "02"} == finished
    assert (sweep / "3.interrupted-1" / "config.yaml").read_text() == killed
    directories = {path.name for path in sweep.iterdir() if path.is_dir()}
    assert directories == {*"012345", "1.failed-1", "3.interrupted-1", ".locks"}
    samples = Counter()
    for number in "0235":
        rows = (sweep / number / "confusion_matrix.csv").read_text().splitlines()[1:]
        samples[number] = sum(int(cell) for row in rows for cell in row.split(",")[1:])
    assert samples == dict.fromkeys("0235", 40)  # each test image once, for one device and two
    assert OmegaConf.load(sweep / "5" / "config.yaml").trainer.devices == 2
    assert yaml.safe_load((sweep / "5" / "overrides.yaml").read_text())[0] == "trainer.devices=2"


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_jobs_beside_each_other(launcher, tmp_path):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.split('_')[0]}_launcher")
    place = tmp_path / "a space"
    place.mkdir()
    swept = (f"hydra/launcher={launcher}", "trainer.devices=1,2", "model=lenet5,lenet5_modern")
    result = train("-m", *swept, *QUICK[:3], *QUICK[4:], cwd=place)
    assert result.returncode == 2
    assert "error: 2 of 4 jobs are not finished." in result.stderr
    (record,) = place.rglob("sweep.yaml")
    assert statuses(record.parent) == ["failed", "finished", "failed", "finished"]
    again = crescendo("sweep", "resume", str(record.parent), cwd=tmp_path)
    assert again.returncode == 2
    assert sorted(path.name for path in record.parent.iterdir() if path.name[0] != ".") == [
        *("0", "0.failed-1", "1", "2", "2.failed-1", "3", "sweep.yaml")
    ]


def test_torchrun_leaves_one_directory(tmp_path):
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone")
    result = command(*torchrun, str(REPOSITORY / "train.py"), "trainer.devices=2", *QUICK, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    run = only_run(tmp_path)
    assert list(run.parent.iterdir()) == [run]
    assert json.loads((run / "summary.json").read_text())["status"] == "finished"


def test_ranks_of_srun_agree_on_a_directory(tmp_path, monkeypatch):
    for name, value in {"NTASKS": "2", "JOB_ID": "7", "STEP_ID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    directory = new_run_directory(tmp_path, rank_zero=True)
    assert directory.is_dir()
    assert new_run_directory(tmp_path, rank_zero=False) == directory
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")  # requeued: nothing is written over
    assert new_run_directory(tmp_path, rank_zero=True) != directory


def test_a_signal_ends_the_job_and_the_sweep(tmp_path):
    process, sweep = start("-m", "seed=1,2", *TINY, "trainer.max_epochs=10000", "logger=csv", cwd=tmp_path)
    until(lambda: list(sweep.rglob("last.ckpt")), 120)
    (job,) = children(process)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    with pytest.raises(ProcessLookupError):
        os.kill(job, 0)
    assert statuses(sweep) == ["interrupted", "not started"]
    assert not (sweep / "1").exists()


@pytest.mark.slow
def test_a_group_of_sweeps_names_its_values_and_typed_ones_win(tmp_path):
    tiny = ("plan=true", "model=lenet5_modern", "curriculum=constant")
    result = train("sweep=seeds", "seed=7,8", *tiny, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (sweep,) = {path.parent for path in tmp_path.rglob("sweep.yaml")}
    jobs = Sweep.read(sweep).jobs
    assert [[override for override in job if override.startswith("seed=")] for job in jobs] == [
        ["seed=7"],
        ["seed=8"],
    ]
    assert statuses(sweep) == ["finished", "finished"]


def test_a_job_that_lives_is_running_and_not_run_again(tmp_path):
    sweep = recorded(tmp_path / "sweep")
    leave(sweep, 0, "running")
    leave(sweep, 1, "running")
    with locked(sweep.directory / "0") as lock:
        assert lock is not None
        assert statuses(sweep.directory) == ["running", "interrupted", "not started"]
        assert list(sweep.to_run()) == [1, 2]
        with locked(sweep.directory / "0") as second:
            assert second is None
    assert list(sweep.to_run()) == [0, 1, 2]


@pytest.mark.parametrize(
    ("status", "summary", "expected"),
    [
        ("finished", {"status": "finished"}, "finished"),
        ("failed", None, "failed"),
        ("interrupted", None, "interrupted"),
        ("running", {"status": "finished"}, "finished"),  # the sweep was killed, the job ended without it
        ("running", {"status": "failed"}, "failed"),
        ("running", None, "interrupted"),
    ],
)
def test_the_status_of_a_job_that_no_process_holds(tmp_path, status, summary, expected):
    sweep = recorded(tmp_path / "sweep", jobs=1)
    leave(sweep, 0, status, summary)
    assert statuses(sweep.directory) == [expected]
    assert list(sweep.to_run()) == ([] if expected == "finished" else [0])


@pytest.mark.parametrize(
    ("code", "told", "summary", "expected"),
    [
        (0, None, {"status": "finished"}, "finished"),
        (0, None, {"status": "pruned"}, "pruned"),
        (0, signal.SIGTERM, {"status": "interrupted"}, "interrupted"),
        (143, None, {"status": "interrupted"}, "interrupted"),
        (-signal.SIGKILL, None, {}, "interrupted"),
        (1, None, {"status": "failed", "error": "it broke"}, "failed"),
        (EXIT_CODE, None, {"status": "interrupted", "error": "of its first process"}, "failed"),
    ],
)
def test_the_outcome_of_a_process(tmp_path, code, told, summary, expected):
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    status, error = outcome(tmp_path, Ended(code, "exit code" if code else None, told))
    assert status == expected
    if expected == "failed":  # by the error of this process, not of one before it
        assert error == ("it broke" if summary["status"] == "failed" else "exit code")


def test_status_shows_every_job(tmp_path):
    sweep = recorded(tmp_path / "sweep")
    summary = {"status": "finished", "seconds": 12.34, "metrics": {"test/accuracy": 0.875}}
    leave(sweep, 0, "finished", summary)
    leave(sweep, 1, "failed")
    result = crescendo("sweep", "status", "sweep", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "1 of 3 jobs finished; all with data=digits" in result.stdout
    rows = [line.replace("│", " ").split() for line in result.stdout.splitlines() if line.startswith("│")]
    assert rows == [
        ["0", "seed=0", "finished", "0.8750", "12.3"],
        ["1", "seed=1", "failed"],
        ["2", "seed=2", "not", "started"],
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not a sweep directory: it has no sweep.yaml"),
        ("a: [", "sweep.yaml cannot be read"),
        ("jobs: []", "sweep.yaml cannot be read"),
        ("{command: [python, train.py], cwd: ., jobs: [1]}", "is not the record of a crescendo sweep"),
        ("{command: [python, gone/train.py], cwd: ., jobs: [[]]}", "was started with gone/train.py"),
        ("{command: [python, /bin/sh], cwd: /, jobs: [[]]}", "Only a project's train.py is run"),
        ("{command: [python, train.py], cwd: ., jobs: []}", "is not the record of a crescendo sweep"),
    ],
)
def test_what_cannot_be_resumed_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "sweep.yaml").write_text(content)
    result = crescendo("sweep", "resume", str(tmp_path), cwd=tmp_path)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert message in result.stderr


@pytest.mark.parametrize(
    "argument",
    [
        "+hydra.callbacks.mine={_target_:os.system,command:touch executed}",
        "hydra.searchpath=[file:///tmp]",
        "hydra.launcher._target_=os.system",
        "+hydra.launcher.setup=[touch executed]",
        "hydra/launcher=mine",
        "+hydra/callbacks=mine",
        "hydra.sweeper._target_=os.system",
        "+hydra.sweeper.study={pruner:{_target_:os.system}}",
        "hydra.job_logging={handlers:{mine:{class:os.system}}}",
        "+hydra.job.env_set.PYTHONPATH=.",
        "+data@hydra.callbacks=digits",
        "model=../../mine,resnet20",
        "+experiment=/elsewhere/mine",
        "--config-dir=conf",
        "--config-path=conf",
        "--config-d=conf",
        "--config-name=../mine",
        "--experimental-rerun=config.pickle",
    ],
)
@pytest.mark.parametrize("place", ["command", "job"])
def test_a_strangers_sweep_executes_nothing(tmp_path, place, argument):
    if place == "job" and argument.startswith("--"):
        pytest.skip("a job has no flags")
    (tmp_path / "conf").mkdir()
    command = ["python", str(REPOSITORY / "train.py"), "-m"]
    jobs = [["seed=1", *([argument] if place == "job" else [])]]
    sweep = Sweep(tmp_path, [*command, *([argument] if place == "command" else [])], str(tmp_path), jobs)
    with pytest.raises(UserError, match=r"was started with .*: refused, since it may execute") as caught:
        resume_sweep(sweep)
    given = argument.split("=", 1)
    flags = {"--config-d": "--config-dir", "--config-path": "--config-path", "--config-name": "--config-name"}
    assert f"{flags.get(given[0], given[0])}" in str(caught.value)
    assert given[1] in str(caught.value)


def test_an_honest_sweep_is_run_again_as_it_was(tmp_path, monkeypatch):
    executed = []
    monkeypatch.setattr(os, "execv", lambda path, arguments: executed.append(arguments))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PWD", str(tmp_path))
    typed = [
        *("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=1,2", "weights=../w.pt"),
        *("data.root=/photos", "+trainer.profiler=simple", "hydra.sweeper.study.n_trials=3"),
        *("optimizer.lr=tag(log, interval(0.1,1))", "~debug"),
    ]
    flags = [f"--config-dir={REPOSITORY / 'conf'}", "-m"]
    script = str(REPOSITORY / "train.py")
    resume_sweep(Sweep(tmp_path, ["python", script, *typed, *flags], str(tmp_path), [["seed=1"], ["seed=2"]]))
    resumed = [f"hydra.sweep.dir='{tmp_path}'", "hydra.sweeper.resume=true"]
    assert executed == [[sys.executable, script, *typed, *resumed, *flags]]


@pytest.mark.slow
def test_a_job_that_was_killed_goes_on_from_its_checkpoint(tmp_path, uninterrupted):
    settings = (*TRAINING, "data.source.samples=1000", "callbacks.checkpoint.every_n_steps=5")
    process, sweep = start("-m", "seed=0", *settings, cwd=tmp_path)
    run = sweep / "0"
    until(lambda: (run / "checkpoints" / "previous.ckpt").exists(), 120)
    (job,) = children(process)
    os.killpg(job, signal.SIGKILL)
    assert process.wait(60) == 2
    assert statuses(sweep) == ["interrupted"]
    auto = train("resume=auto", *settings, cwd=tmp_path)
    assert auto.returncode == 2
    assert "Jobs of a sweep are for crescendo sweep resume." in auto.stderr
    before = (run / "overrides.yaml").read_text()

    resumed = crescendo("sweep", "resume", str(sweep), cwd=REPOSITORY)
    assert resumed.returncode == 0, resumed.stderr
    assert "goes on after step" in " ".join(resumed.stdout.split())
    assert {path.name for path in sweep.iterdir()} == {"0", ".locks", "sweep.yaml"}
    assert (run / "overrides.yaml").read_text() == before
    assert_same_end(run, uninterrupted(*settings))


def test_a_directory_that_holds_a_sweep_is_not_written_over(tmp_path):
    sweep = recorded(tmp_path / "sweep")
    with pytest.raises(UserError, match="holds a sweep already: crescendo sweep resume"):
        Sweep.record(sweep.directory, [["seed=9"]])
    assert Sweep.read(sweep.directory) == sweep


def test_two_sweeps_of_one_second_get_two_directories(tmp_path):
    node = OmegaConf.create({"runs_dir": "runs", "name": "x", "hydra": {"sweep": {"dir": sweep_directory()}}})
    assert len({str(node.copy().hydra.sweep.dir) for _ in range(8)}) == 8


def test_a_misspelt_option_of_any_job_stops_before_the_first(tmp_path):
    result = train("-m", "model=lenet5_modern,resnt20", cwd=tmp_path)
    assert result.returncode == 2
    assert "model=resnt20: there is no such option" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_is_not_one_of_several_processes(tmp_path):
    result = train("-m", "seed=1,2", cwd=tmp_path, WORLD_SIZE="2", RANK="0")
    assert result.returncode == 2
    assert "start it once, with python train.py -m" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["a b", "it's", "back\\slash", "end\\", "a\\'b", 'say "x"', "a,b=c"])
def test_a_quoted_value_reaches_hydra_as_it_is(value):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    (override,) = OverridesParser.create().parse_overrides([f"key={quoted(value)}"])
    assert override.value() == value
