"""The specification as it is written, read back, and sent to a server that stands in for W&B's."""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from commands import command, crescendo
from omegaconf import OmegaConf

from crescendo.cli.publishing import dashboard
from crescendo.dashboard import workspace
from crescendo.dashboard.scope import AXES, CHOICES, Scope, scope_of
from crescendo.errors import UserError

PLACE = ("--entity", "team", "--project", "crescendo")


def specification(**scope):
    return workspace.as_json(workspace.specify("team", "crescendo", "nets", Scope(**scope)))


def section(text):
    return json.loads(text)["spec"]["section"]


def test_the_dry_run_writes_what_is_read_back_and_the_same_each_time(tmp_path):
    result = crescendo("dashboard", *PLACE, "--name", "nets", "--dry-run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "dashboard.json: 35 panels, read back as they were written\n"
    assert (tmp_path / "dashboard.json").read_text() == specification()
    titles = [part["name"] for part in section(specification())["panelBankConfig"]["sections"]]
    assert titles == [
        *("Leaderboard", "Accuracy while training", "What accuracy costs"),
        *("Curriculum", "Sweep", "Mistakes"),
    ]


def test_seeds_are_a_mean_and_a_band_of_the_runs_that_share_the_choices():
    spec = section(specification())
    (runs,) = spec["runSets"]
    assert runs["grouping"] == [{"section": "config", "name": f"{choice}.value"} for choice in CHOICES]
    assert runs["sort"]["keys"] == [
        {"key": {"section": "summary", "name": "test/accuracy"}, "ascending": False}
    ]
    assert spec["settings"]["useRunsTableGroupingInPanels"]
    for part in spec["panelBankConfig"]["sections"][:2]:
        for panel in part["panels"]:
            if panel["viewType"] != "Run Comparer":
                assert (panel["config"]["groupAgg"], panel["config"]["groupArea"]) == ("mean", "stddev")


def test_runs_that_failed_are_not_shown_and_a_sweep_is_shown_alone():
    (runs,) = section(specification(sweep="2026-11-26_09-42-28_0ee8"))["runSets"]
    shown = [(each["key"]["name"], each["op"], each["value"]) for each in runs["filters"]["filters"]]
    assert shown == [("state", "IN", ["finished", "running"]), ("group", "=", "2026-11-26_09-42-28_0ee8")]


@pytest.mark.parametrize(
    ("written", "wrong"),
    [
        ('"viewType": "Bar Chart"', '"viewType": "Bar Charts"'),
        ('"chartTitle": "Test loss"', '"chartTitel": "Test loss"'),
        ('"groupArea": "stddev"', '"groupArea": "deviation"'),
        ('"openViz": true', '"openViz": {}'),
    ],
)
def test_a_specification_that_is_not_read_back_as_written_is_refused(written, wrong):
    text = specification()
    assert written in text
    with pytest.raises(UserError, match="specification"):
        workspace.check(text.replace(written, wrong, 1))


def sweep(place, logger, **lrs):
    """Run directories below `place`: <job>=lr."""
    for job, lr in lrs.items():
        (place / job).mkdir(parents=True)
        config = {"seed": 0, "logger": logger, "data": {}, "model": {}, "optimizer": {"lr": lr}}
        OmegaConf.save(OmegaConf.create(config), place / job / "config.yaml")
        OmegaConf.save(OmegaConf.create([f"optimizer.lr={lr}"]), place / job / "overrides.yaml")
    return place


def test_a_sweep_is_grouped_by_what_differs(tmp_path):
    logger = {"_target_": "crescendo.wandb_run.weights_and_biases", "project": "crescendo"}
    place = sweep(tmp_path / "2026_0ee8", logger, a=0.1, b=0.2)
    lr = ["optimizer.lr"]
    assert scope_of(place) == Scope(group_by=lr, axes=lr, sweep="2026_0ee8")
    assert scope_of(place, ["model"]) == Scope(group_by=["model"], axes=lr, sweep="2026_0ee8")
    named = sweep(tmp_path / "named", logger | {"group": "mine"}, a=0.1)
    assert scope_of(named) == Scope(group_by=CHOICES, axes=AXES, sweep="mine")  # nothing differs
    with pytest.raises(UserError, match="none of its runs was logged to W&B"):
        scope_of(sweep(tmp_path / "csv", {}, a=0.1))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"project": "p"}, "--entity is missing"),
        ({"entity": "e"}, "--project is missing"),
        ({"entity": "e/p", "project": "p"}, "--entity 'e/p': '/' cannot be in it"),
        ({"entity": "e", "project": "a#b"}, "--project 'a#b': '#' cannot be in it"),
        ({"entity": "e", "project": "p", "name": "up \N{ROCKET}"}, "Emojis"),
        ({"entity": "e", "project": "p", "group_by": ["optimiser.lr"]}, "Did you mean optimizer?"),
        ({"entity": "e", "project": "p", "axis": ["models"]}, "--axis models: no such setting"),
        ({"entity": "e", "project": "p", "url": "https://wandb.ai/e/p?nw=a"}, "overwrites no workspace"),
        ({"entity": "e", "project": "p", "out": Path("a.json"), "dry_run": False}, "written by --dry-run"),
    ],
)
def test_a_mistake_is_one_message_and_writes_nothing(tmp_path, monkeypatch, given, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        dashboard(**{"dry_run": True} | given)
    assert message in str(error.value)
    assert not list(tmp_path.iterdir())


def test_without_a_key_nothing_is_sent(tmp_path):
    result = crescendo("dashboard", *PLACE, cwd=tmp_path)
    assert result.returncode == 2
    assert "no key" in result.stderr
    assert "wandb login" in result.stderr
    assert "--dry-run" in result.stderr


def test_without_the_extra_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    for name in [name for name in sys.modules if name.startswith("crescendo.dashboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("crescendo.dashboard.workspace")
    with pytest.raises(UserError, match=r'pip install "crescendo\[dashboard\]"'):
        dashboard("team", "crescendo", dry_run=True)


class Server(BaseHTTPRequestHandler):
    """Saves and finds views as W&B's server does."""

    sent: list[dict] = []

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path != "/graphql":
            self.send_error(404)
            return
        request = json.loads(body)
        given = request.get("variables") or {}
        if "upsertView(" in request["query"]:
            self.sent.append(given)
            data = {"upsertView": {"view": {"id": "view1", "name": given["name"]}, "inserted": True}}
        elif "allViews(" in request["query"]:
            kept = {"id": "view1", "displayName": "old", "spec": self.sent[0]["spec"]}
            data = {"project": {"allViews": {"edges": [{"node": kept}]}}}
        else:
            team = {"edges": []}
            data = {"viewer": {"id": "1", "entity": "team", "username": "me", "flags": "{}", "teams": team}}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"data": data}).encode())

    def log_message(self, *_):
        """Nothing on the console."""


@pytest.fixture
def server(monkeypatch):
    """Its address."""
    monkeypatch.setattr(Server, "sent", [])
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as served:
        Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()


@pytest.mark.slow
def test_what_is_saved_is_what_the_dry_run_writes_and_a_url_is_overwritten(tmp_path, server):
    def saved(*options):
        result = command(
            *("-m", "crescendo.cli", "dashboard", *PLACE, "--name", "nets", *options),
            cwd=tmp_path,
            WANDB_BASE_URL=server,
            WANDB_API_KEY="0" * 40,
            WANDB_ERROR_REPORTING="false",
        )
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    url = saved()
    assert url.startswith(f"{server}/team/crescendo?nw=")
    assert saved("--url", url) == url
    first, second = Server.sent
    assert json.loads(first["spec"]) == json.loads(second["spec"]) == json.loads(specification())["spec"]
    assert (first["entityName"], first["projectName"], first["displayName"]) == ("team", "crescendo", "nets")
    assert "id" not in first
    assert (second["id"], second["name"]) == ("view1", first["name"])
