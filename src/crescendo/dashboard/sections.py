"""What the workspace shows, section by section, by the names under which runs log it.

A panel may only ask for what every run logs; curves need both of their axes in the same row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from wandb_workspaces.reports.v2.interface import PanelTypes

from crescendo.regularization import Regularization

ACCURACY = "test/accuracy"  # of the best checkpoint
VALIDATION = "val/accuracy"  # in a run's summary that of the best checkpoint
PROGRESS = {
    "train/seconds": "seconds of training",
    "train/macs": "MACs of training",
    "train/images": "images seen",
    "train/epochs": "epochs",
}
SIZES = {"parameters": "parameters", "macs": "MACs of an image"}
SHOWN = 50  # runs, or groups of runs, in a panel


def sections(axes: Mapping[str, str]) -> list[ws.Section]:
    """The workspace from top to bottom.

    Args:
        axes: what the parallel coordinates show: settings, and where a run's W&B config has them.
    """
    return [_leaderboard(), _learning(), _cost(), _curriculum(), _sweep(axes), _mistakes()]


def columns() -> list[str]:
    """Beside a run's name in the list of runs."""
    return [f"summary:{name}" for name in (ACCURACY, VALIDATION, *SIZES, *PROGRESS)]


def _leaderboard() -> ws.Section:
    bars = {
        ACCURACY: "Test accuracy",
        "test/loss": "Test loss",
        "test/calibration_error": "Expected calibration error (test)",
    }
    panels = [
        wr.BarPlot(
            title=title,
            metrics=[metric],
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
            max_runs_to_show=SHOWN,
            max_bars_to_show=SHOWN,
        )
        for metric, title in bars.items()
    ]
    return _section("Leaderboard", [*panels, wr.RunComparer(diff_only="split")], columns=2)


def _learning() -> ws.Section:
    """The same curves against each of what a training costs."""
    panels = [_curve(VALIDATION, f"Validation accuracy by {title}", x) for x, title in PROGRESS.items()]
    return _section("Accuracy while training", panels, columns=2)


def _cost() -> ws.Section:
    panels = [
        wr.ScatterPlot(
            title=f"Test accuracy by {title}",
            x=wr.SummaryMetric(x),
            y=wr.SummaryMetric(ACCURACY),
            log_x=True,
        )
        for x, title in (PROGRESS | SIZES).items()
    ]
    return _section("What accuracy costs", panels, columns=3)


def _curriculum() -> ws.Section:
    """Curves, and under them on the same axis what the curriculum did at that time."""
    x = "train/images"
    above = {
        "train/accuracy": "Training accuracy",
        VALIDATION: "Validation accuracy",
        "train/loss": "Training loss",
        "val/loss": "Validation loss",
        "curriculum/resolution": "Resolution (px)",
        "curriculum/stage": "Stage",
        "lr": "Learning rate",
        "train/images_per_second": "Images per second",
    }
    knobs = {
        f"regularization/{knob.name}": knob.name.replace("_", " ").capitalize()
        for knob in fields(Regularization)
    }
    panels = [_curve(y, title, x) for y, title in (above | knobs | {"data/wait": "Wait for data"}).items()]
    return _section("Curriculum", panels, columns=2)


def _sweep(axes: Mapping[str, str]) -> ws.Section:
    """A line for each run: its settings, then what came out."""
    results = {"train/macs": PROGRESS["train/macs"], VALIDATION: "val accuracy", ACCURACY: "test accuracy"}
    lines = [wr.ParallelCoordinatesPlotColumn(wr.Config(at), display_name=name) for name, at in axes.items()]
    lines += [
        wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(metric), display_name=title)
        for metric, title in results.items()
    ]
    panels: list[PanelTypes] = [
        wr.ParallelCoordinatesPlot(title="Settings and results", columns=lines),
        wr.ParameterImportancePlot(with_respect_to=ACCURACY),
    ]
    return _section("Sweep", panels, columns=1)


def _mistakes() -> ws.Section:
    """Tables that a run's test leaves; of all runs that are shown, one below the other."""
    tables = ("test/mistakes", "test/confusions", "test/classes")
    return _section("Mistakes", [wr.WeavePanelSummaryTable(table_name=table) for table in tables], columns=1)


def _curve(y: str, title: str, x: str) -> wr.LinePlot:
    """A line for each group of runs: the mean over its seeds, in a band of the standard deviation."""
    return wr.LinePlot(
        title=title,
        x=x,
        y=[y],
        title_x=PROGRESS[x],
        groupby_aggfunc="mean",
        groupby_rangefunc="stddev",
        smoothing_type="none",
        max_runs_to_show=SHOWN,
    )


def _section(name: str, panels: Sequence[PanelTypes], columns: int) -> ws.Section:
    """A section that shows all of its panels at once."""
    layout = ws.SectionLayoutSettings(columns=columns, rows=-(-len(panels) // columns))
    return ws.Section(name=name, panels=list(panels), is_open=True, layout_settings=layout)
