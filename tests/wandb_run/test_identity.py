from crescendo.runs import Run
from crescendo.wandb_run.identity import describe, id_of, name_of, sweep_of, without_secrets

CONFIG = {"seed": 3, "arm": None, "model": {"_target_": "a.net", "width": 8}, "data": {"batch_size": 32}}


def test_a_group_is_its_option_and_a_setting_itself(tmp_path):
    run = Run(tmp_path, {"model": "resnet20", "data": "digits"})
    run.summary |= {"git_revision": "0123abc", "parameters": 10, "macs": 20}
    described = describe(run, CONFIG)
    assert (described["model"], described["data"], described["seed"]) == ("resnet20", "digits", 3)
    assert (described["git_revision"], described["parameters"], described["macs"]) == ("0123abc", 10, 20)
    assert described["run_directory"] == str(tmp_path)
    assert described["settings"] == CONFIG


def test_a_secret_of_the_environment_is_masked_wherever_it_is(monkeypatch):
    monkeypatch.setenv("STORE_TOKEN", "s3cr3t-and-long")
    monkeypatch.setenv("SHORT_KEY", "a")
    given = {"root": "https://me:s3cr3t-and-long@store/a", "list": ["s3cr3t-and-long", 1], "none": None}
    masked = {"root": "https://me:***@store/a", "list": ["***", 1], "none": None}
    assert without_secrets(given) == masked


def test_of_a_secret_that_begins_as_another_does_nothing_is_left(monkeypatch):
    monkeypatch.setenv("A_TOKEN", "s3cr3t-and-long")
    monkeypatch.setenv("B_TOKEN", "s3cr3t-and-longer-still")
    assert without_secrets(["s3cr3t-and-longer-still"]) == ["***"]


def test_a_job_that_runs_again_is_another_run(tmp_path):
    """Its first attempt was put aside (crescendo sweep resume); else W&B would go on with that."""
    job = tmp_path / "2026_beef" / "3"
    job.mkdir(parents=True)
    (job.parent / "sweep.yaml").write_text("")
    first = id_of(job)
    (job.parent / "33.failed-1").mkdir()
    assert id_of(job) == first
    job.rename(job.with_name("3.failed-1"))
    assert id_of(job) == id_of(job) != first
    (job.parent / "3.interrupted-1").mkdir()
    assert len({first, id_of(job), id_of(job.parent / "33"), id_of(job.parent / "4")}) == 4


def test_a_job_is_named_after_its_sweep(tmp_path):
    job = tmp_path / "2026_beef" / "3"
    job.mkdir(parents=True)
    assert (sweep_of(job), name_of(job)) == (None, "3")
    (job.parent / "sweep.yaml").write_text("")
    assert (sweep_of(job), name_of(job)) == ("2026_beef", "2026_beef/3")
    assert id_of(job) == id_of(job)
    assert id_of(job) != id_of(job.with_name("4"))
