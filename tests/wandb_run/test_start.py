"""A run is online where it can be, offline where it cannot, and held up by neither."""

import json
import logging
import socket
import time

import pytest
import wandb
from commands import REPOSITORY, TINY, command, only_run, train
from omegaconf import OmegaConf

from crescendo.runs import Run
from crescendo.tracking import finish_loggers
from crescendo.wandb_run import start, weights_and_biases


@pytest.fixture
def told(caplog):
    """What was said so far."""
    logging.getLogger("crescendo").propagate = True
    with caplog.at_level(logging.INFO, logger="crescendo"):
        yield lambda: caplog.text


class FakeWandb:
    """What `why_offline` asks of the wandb package."""

    errors = wandb.errors

    def __init__(self, key: bool, url: str = "", refusal: Exception | None = None) -> None:
        self.key, self.refusal = key, refusal
        self.settings = OmegaConf.create({"base_url": url})

    def login(self, prompt: bool, verify: bool) -> bool:
        assert not prompt
        assert not verify
        if self.refusal is not None:
            raise self.refusal
        return self.key

    def setup(self):
        return self


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def test_without_a_key_no_connection_is_tried(monkeypatch):
    monkeypatch.setattr(socket, "create_connection", lambda *_: pytest.fail("connected"))
    assert start.why_offline(FakeWandb(key=False)) == "it has no key (wandb login)"


def test_a_key_that_is_none_is_no_error():
    refusal = wandb.errors.AuthenticationError("it has 3 characters")
    assert "its key is refused (it has 3 characters)" in start.why_offline(FakeWandb(True, refusal=refusal))


def test_with_a_key_and_a_server_the_run_is_online():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert start.why_offline(FakeWandb(key=True, url=f"http://127.0.0.1:{port}")) is None


def test_with_a_key_and_no_server_the_run_goes_on_offline():
    why = start.why_offline(FakeWandb(key=True, url=f"http://127.0.0.1:{closed_port()}"))
    assert "127.0.0.1 does not answer" in why


def test_a_proxy_answers_in_the_server_s_place(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert start.unreachable("https://wandb.invalid") is None
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert start.unreachable(f"https://127.0.0.1:{closed_port()}") is not None


def test_names_that_are_never_resolved_hold_nothing_up(monkeypatch):
    def silent(*_):
        time.sleep(30)
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", silent)
    begin = time.perf_counter()
    assert "does not answer (nothing in 2 s)" in start.unreachable("https://api.wandb.ai")
    assert time.perf_counter() - begin < 4


def offline_run(place, monkeypatch, **settings):
    monkeypatch.setenv("WANDB_MODE", "offline")
    place.mkdir(parents=True, exist_ok=True)
    run = Run(place)
    return run, weights_and_biases(run, {"seed": 3}, "crescendo", **settings)


def test_wandb_gets_the_configuration_and_stays_in_the_run_directory(tmp_path, monkeypatch, told):
    settings = {"group": "mine", "job_type": "probe", "tags": ["quick"], "notes": "a note", "name": "a name"}
    run, logger = offline_run(tmp_path / "run", monkeypatch, **settings)
    logger.log_metrics({"loss": 1.0}, step=0)
    experiment = logger.experiment
    assert experiment.config["seed"] == 3
    assert (experiment.group, experiment.job_type, experiment.tags) == ("mine", "probe", ("quick",))
    assert (experiment.notes, experiment.name) == ("a note", "a name")
    assert run.summary["wandb_id"] == experiment.id
    finish_loggers([logger], None)
    assert list((run.directory / "wandb").glob("offline-run-*"))
    assert told().count("wandb sync") == 1


def test_a_job_is_grouped_with_its_sweep(tmp_path, monkeypatch):
    (tmp_path / "2026-01-01_00-00-00_beef").mkdir()
    (tmp_path / "2026-01-01_00-00-00_beef" / "sweep.yaml").write_text("")
    _, logger = offline_run(tmp_path / "2026-01-01_00-00-00_beef" / "7", monkeypatch)
    assert logger.experiment.group == "2026-01-01_00-00-00_beef"
    assert logger.experiment.name == "2026-01-01_00-00-00_beef/7"
    assert logger.experiment.job_type == "train"
    finish_loggers([logger], None)


def test_a_disabled_wandb_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert weights_and_biases(Run(tmp_path), {}, "crescendo") is None


def test_a_start_that_fails_leaves_metrics_csv(tmp_path, told, monkeypatch):
    def fail(**settings):
        raise wandb.errors.UsageError("no such entity")

    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(wandb, "init", fail)
    assert weights_and_biases(Run(tmp_path), {}, "crescendo") is None
    assert "no such entity" in told()
    assert "goes on with metrics.csv alone" in told()


def finished(result, place):
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stdout
    run = only_run(place)
    assert json.loads((run / "summary.json").read_text())["status"] == "finished"
    assert (run / "metrics.csv").read_text().count("\n") > 4
    return " ".join(result.stdout.split()), run


@pytest.mark.parametrize(
    "ending",
    [pytest.param("SIGKILL", marks=pytest.mark.slow), "SIGSTOP"],  # it dies, or hangs for ever
)
def test_a_service_that_fails_takes_no_run_with_it(tmp_path, ending):
    driver = str(REPOSITORY / "tests" / "without_wandb.py")
    said, _ = finished(command(driver, ending, *TINY, cwd=tmp_path, WANDB_MODE="offline"), tmp_path)
    assert said.count("W&B is lost") == 1


def test_without_a_network_a_run_with_a_key_is_offline_and_keeps_the_key_to_itself(tmp_path):
    key = "feedface" * 5
    url = f"http://127.0.0.1:{closed_port()}"
    result = train(*TINY, cwd=tmp_path, WANDB_BASE_URL=url, WANDB_API_KEY=key)
    said, run = finished(result, tmp_path)
    assert "127.0.0.1 does not answer" in said
    assert said.count("wandb sync") == 1
    assert f"wandb sync {(run / 'wandb').relative_to(tmp_path)}" in said
    everything = [path for path in run.rglob("*") if path.is_file()]
    assert len(everything) > 10
    assert not [path for path in everything if key.encode() in path.read_bytes()]
    assert key not in said + result.stderr


@pytest.mark.slow  # waits for W&B as long as a run does
def test_a_server_that_never_answers_holds_no_run_up(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        result = train(*TINY, cwd=tmp_path, WANDB_BASE_URL=url, WANDB_API_KEY="0" * 40)
    said, run = finished(result, tmp_path)
    assert "it did not start" in said
    assert said.count("wandb sync") == 1
    assert list((run / "wandb").glob("offline-run-*"))
