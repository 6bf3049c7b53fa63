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


def test_a_job_is_named_after_its_sweep(tmp_path):
    job = tmp_path / "2026_beef" / "3"
    job.mkdir(parents=True)
    assert (sweep_of(job), name_of(job)) == (None, "3")
    (job.parent / "sweep.yaml").write_text("")
    assert (sweep_of(job), name_of(job)) == ("2026_beef", "2026_beef/3")
    assert id_of(job) == id_of(job)
    assert id_of(job) != id_of(job.with_name("4"))
