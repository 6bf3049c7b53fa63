"""A run is online where it can be, offline where it cannot, and held up by neither."""

import json
import logging
import socket
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import SimpleNamespace

import pytest
import wandb
from commands import REPOSITORY, TINY, command, only_run, train
from omegaconf import OmegaConf

from crescendo.errors import UserError
from crescendo.runs import Run
from crescendo.tracking import finish_loggers
from crescendo.wandb_run import start, weights_and_biases
from crescendo.wandb_run.logger import show_upload


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


class Refusing(BaseHTTPRequestHandler):
    """A server, or a proxy, that refuses whatever it is asked."""

    def log_message(self, *_):
        """Nothing on the console."""


class Tunnel(Refusing):
    """A proxy with a way to the server, which ends there."""

    def do_CONNECT(self):
        self.send_response(200)
        self.end_headers()


class Silent(Refusing):
    """A server that is there, and starts no run."""

    def do_HEAD(self):
        self.send_error(405)

    def do_POST(self):
        time.sleep(60)


@contextmanager
def served(handler):
    """Its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_with_a_key_and_a_server_the_run_is_online():
    with served(Refusing) as url:
        assert start.why_offline(FakeWandb(key=True, url=url)) is None


def test_a_server_that_takes_a_connection_and_says_nothing_does_not_answer():
    begin = time.perf_counter()
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert "127.0.0.1" in start.unreachable(url)
    assert time.perf_counter() - begin < 4


def test_with_a_key_and_no_server_the_run_goes_on_offline():
    why = start.why_offline(FakeWandb(key=True, url=f"http://127.0.0.1:{closed_port()}"))
    assert "127.0.0.1 does not answer" in why


def test_the_way_to_a_server_is_through_the_proxy(monkeypatch):
    with served(Tunnel) as proxy:
        monkeypatch.setenv("https_proxy", proxy)
        assert start.unreachable("https://wandb.invalid") is None
    with served(Refusing) as proxy:  # of a cluster that lets nobody out
        monkeypatch.setenv("https_proxy", proxy)
        assert "wandb.invalid does not answer (Tunnel connection failed" in start.unreachable(
            "https://wandb.invalid"
        )
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


def test_wandb_gets_the_configuration_and_stays_in_the_run_directory(tmp_path, monkeypatch, capsys):
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
    assert capsys.readouterr().out.splitlines()[-1] == f"wandb sync {run.directory / 'wandb'}"


def test_a_job_is_grouped_with_its_sweep(tmp_path, monkeypatch):
    (tmp_path / "2026-01-01_00-00-00_beef").mkdir()
    (tmp_path / "2026-01-01_00-00-00_beef" / "sweep.yaml").write_text("")
    _, logger = offline_run(tmp_path / "2026-01-01_00-00-00_beef" / "7", monkeypatch)
    assert logger.experiment.group == "2026-01-01_00-00-00_beef"
    assert logger.experiment.name == "2026-01-01_00-00-00_beef/7"
    assert logger.experiment.job_type == "train"
    finish_loggers([logger], None)


def test_the_command_of_an_upload_is_one_line(capsys, tmp_path):
    show_upload(tmp_path / ("long" * 40) / "a b" / "wandb", "--include-online")
    assert capsys.readouterr().out == f"wandb sync --include-online '{tmp_path}/{'long' * 40}/a b/wandb'\n"


def test_a_disabled_wandb_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert weights_and_biases(Run(tmp_path), {}, "crescendo") is None


@pytest.fixture
def asked(monkeypatch):
    """What wandb.init is asked for, which it refuses."""
    given = {}

    def fail(**settings):
        given.update(settings)
        raise wandb.errors.UsageError("no")

    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(wandb, "init", fail)
    monkeypatch.setattr(start, "why_offline", lambda _: None)
    return given


@pytest.mark.parametrize(("kept", "mode"), [("online", "online"), ("offline", "offline"), ("disabled", None)])
def test_what_wandb_s_own_commands_left_decides(tmp_path, monkeypatch, asked, kept, mode):
    """`wandb offline` and `wandb disabled` write a settings file."""
    setup = SimpleNamespace(settings=SimpleNamespace(mode=kept))
    monkeypatch.setattr(wandb, "setup", lambda _: setup)
    weights_and_biases(Run(tmp_path), {}, "crescendo")
    assert asked.get("mode") == mode


def test_an_old_name_of_offline_has_the_command_of_the_upload_too(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    finish_loggers([weights_and_biases(Run(tmp_path), {}, "crescendo")], None)
    assert capsys.readouterr().out.count("wandb sync") == 1


def test_a_tag_that_wandb_refuses_is_one_message(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(UserError, match=r"Tag .* is 70 characters. Tags must be between 1 and 64"):
        weights_and_biases(Run(tmp_path), {}, "crescendo", tags=["x" * 70])


def test_the_environment_s_project_and_tags_are_taken(tmp_path, monkeypatch, asked, configuration):
    assert configuration().logger.project == "crescendo"
    monkeypatch.setenv("WANDB_PROJECT", "birds")
    assert configuration().logger.project == "birds"
    weights_and_biases(Run(tmp_path), {}, "crescendo")
    assert asked["tags"] is None  # W&B then takes WANDB_TAGS


def test_a_run_that_is_online_says_where(tmp_path, monkeypatch, capsys):
    experiment = SimpleNamespace(id="abc", offline=False, step=0, url="https://wandb.ai/team/birds/runs/abc")
    experiment.define_metric = lambda *_, **__: None
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(wandb, "init", lambda **_: experiment)
    weights_and_biases(Run(tmp_path), {}, "crescendo")
    assert capsys.readouterr().out == "W&B: https://wandb.ai/team/birds/runs/abc\n"


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
def test_a_server_that_starts_no_run_holds_none_up(tmp_path):
    with served(Silent) as url:
        result = train(*TINY, cwd=tmp_path, WANDB_BASE_URL=url, WANDB_API_KEY="0" * 40)
    said, run = finished(result, tmp_path)
    assert "it did not start" in said
    assert said.count("wandb sync") == 1
    assert list((run / "wandb").glob("offline-run-*"))
