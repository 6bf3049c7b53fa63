"""W&B shows a run while it works, and takes no run with it when it does not."""

import json
import logging
import socket
import time

import pytest
import wandb
from commands import REPOSITORY, TINY, command, only_run, train
from omegaconf import OmegaConf

from crescendo import wandb_run
from crescendo.runs import Run
from crescendo.tracking import finish_loggers


class FakeWandb:
    """What `_server_answers` asks of the wandb package."""

    def __init__(self, key: bool, url: str = "") -> None:
        self.key = key
        self.settings = OmegaConf.create({"base_url": url})

    def login(self, prompt: bool, verify: bool) -> bool:
        assert not prompt
        assert not verify
        return self.key

    def setup(self):
        return self


def test_without_a_key_no_connection_is_tried(monkeypatch):
    monkeypatch.setattr(socket, "create_connection", lambda *_: pytest.fail("connected"))
    assert not wandb_run._server_answers(FakeWandb(key=False))


def test_with_a_key_and_a_server_the_run_is_online():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert wandb_run._server_answers(FakeWandb(key=True, url=f"http://127.0.0.1:{port}"))


def test_with_a_key_and_no_server_the_run_goes_on_offline(caplog):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    begin = time.perf_counter()
    with caplog.at_level(logging.WARNING, logger="crescendo"):
        logging.getLogger("crescendo").propagate = True
        assert not wandb_run._server_answers(FakeWandb(key=True, url=f"http://127.0.0.1:{port}"))
    assert time.perf_counter() - begin < 3
    assert "127.0.0.1 does not answer" in caplog.text


def test_wandb_gets_the_configuration_and_stays_in_the_run_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = Run(tmp_path / "run")
    run.directory.mkdir()
    logger = wandb_run.weights_and_biases(run, {"seed": 3}, "crescendo", None, "sweep", ["quick"])
    logger.log_metrics({"loss": 1.0}, step=0)
    assert logger.experiment.config["seed"] == 3
    assert logger.experiment.group == "sweep"
    assert run.summary["wandb_id"] == logger.experiment.id
    finish_loggers([logger], failed=False)
    assert list((run.directory / "wandb").glob("offline-run-*"))


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


@pytest.mark.slow  # waits for W&B as long as a run does
def test_a_server_that_never_answers_holds_no_run_up(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        result = train(*TINY, cwd=tmp_path, WANDB_BASE_URL=url, WANDB_API_KEY="0" * 40)
    said, run = finished(result, tmp_path)
    assert "W&B did not start" in said
    assert "goes on offline" in said
    assert list((run / "wandb").glob("offline-run-*"))


def test_a_start_that_fails_leaves_metrics_csv(tmp_path, caplog, monkeypatch):
    def fail(**settings):
        raise wandb.errors.UsageError("no such entity")

    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(wandb, "init", fail)
    with caplog.at_level(logging.WARNING, logger="crescendo"):
        logging.getLogger("crescendo").propagate = True
        assert wandb_run.weights_and_biases(Run(tmp_path), {}, "crescendo", None, None, []) is None
    assert "no such entity" in caplog.text
    assert "goes on with metrics.csv alone" in caplog.text
