"""Every name that the dashboard asks W&B for is one that a run logs: a panel without it would stay empty."""

import pytest
from commands import TINY, only_run, train
from wandb_files import history, sessions, summary

from crescendo.dashboard.scope import AXES, Scope
from crescendo.dashboard.workspace import specify


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """What W&B has of a tiny run."""
    place = tmp_path_factory.mktemp("run")
    result = train(*TINY, cwd=place, WANDB_MODE="offline")
    assert result.returncode == 0, result.stderr
    (found,) = sessions(only_run(place))
    return found


@pytest.fixture(scope="module")
def spec():
    """The part of the specification that the server is sent."""
    view = specify(
        "team", "crescendo", "crescendo", Scope(axes=(*AXES, "curriculum.resolution.start", "seed"))
    )
    return view.model_dump(by_alias=True, exclude_none=True)["spec"]["section"]


def panels(spec, kind):
    found = [
        panel["config"]
        for section in spec["panelBankConfig"]["sections"]
        for panel in section["panels"]
        if panel["viewType"] == kind
    ]
    assert found
    return found


def values(record):
    """`summary:a/b` and `config:a.value.b` of what `wandb leet inspect --summary` says."""
    known = {f"summary:{name}" for name in record["summary"]}

    def walk(node, path):
        known.add(path)
        if isinstance(node, dict):
            for name, inner in node.items():
                walk(inner, f"{path}.{name}")

    for name, value in record["config"].items():
        walk(value, f"config:{name}.value")
    return known


def test_both_axes_of_a_curve_are_in_the_same_rows(spec, session):
    rows = history(session)
    for curve in panels(spec, "Run History Line Plot"):
        (metric,) = curve["metrics"]
        together = [row for row in rows if metric in row and curve["xAxis"] in row]
        assert len(together) >= 2, f"{metric} by {curve['xAxis']}"


def test_a_run_has_all_values_that_panels_and_columns_ask_for(spec, session):
    known = values(summary(session))
    asked = [f"summary:{name}" for bars in panels(spec, "Bar Chart") for name in bars["metrics"]]
    asked += [plot[axis] for plot in panels(spec, "Scatter Plot") for axis in ("xAxis", "yAxis")]
    (lines,) = panels(spec, "Parallel Coordinates Plot")
    asked += [column["accessor"] for column in lines["columns"]]
    (importance,) = panels(spec, "Parameter Importance")
    asked.append(f"summary:{importance['targetKey']}")
    (runs,) = spec["runSets"]
    asked += [column for column in runs["runFeed"]["columnPinned"] if column != "run:displayName"]
    asked += [f"{key['section']}:{key['name']}" for key in runs["grouping"]]
    asked += [f"{sort['key']['section']}:{sort['key']['name']}" for sort in runs["sort"]["keys"]]
    asked += [f"summary:{table(panel)}" for panel in panels(spec, "Weave")]
    assert "config:settings.value.optimizer.lr" in asked
    assert not sorted(set(asked) - known)


def table(panel):
    return panel["panel2Config"]["exp"]["fromOp"]["inputs"]["key"]["val"]
