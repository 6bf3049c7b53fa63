"""An evaluation for a terminal, as JSON and as a picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table

from crescendo.analysis.scores import BINS, Estimate, Scores
from crescendo.analysis.uncertainty import McNemar
from crescendo.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINE = "#0072b2"  # Okabe & Ito's blue
MOST_CLASSES = 30  # of a terminal's table: of more the worst are shown


@dataclass(frozen=True)
class Against:
    """Another run on the same images: its accuracy, the first run's minus it, and McNemar's exact test."""

    run: str
    accuracy: Estimate
    difference: Estimate
    mcnemar: McNemar


@dataclass(frozen=True)
class Evaluation:
    """What `crescendo evaluate` found.

    Attributes:
        averaged: with test-time augmentation, and against the plain test.
        resolutions: accuracy by px.
        corruptions: accuracy by name: at each severity, and their mean.
    """

    scores: Scores
    images: int
    resolution: int
    averaged: tuple[Scores, Against] | None = None
    resolutions: Mapping[int, Estimate] = field(default_factory=dict)
    corruptions: Mapping[str, tuple[Sequence[float], Estimate]] = field(default_factory=dict)
    against: Against | None = None

    def as_json(self) -> dict[str, Any]:
        """Everything, as plain values."""
        return {
            **_scores_as_json(self.scores),
            "images": self.images,
            "resolution": self.resolution,
            "tta": self.averaged
            and _scores_as_json(self.averaged[0]) | {"against_plain": _against_as_json(self.averaged[1])},
            "resolutions": {str(px): estimate._asdict() for px, estimate in self.resolutions.items()},
            "corruptions": {
                name: {"severities": list(severities), "mean": estimate._asdict()}
                for name, (severities, estimate) in self.corruptions.items()
            },
            "against": self.against and {"run": self.against.run} | _against_as_json(self.against),
        }

    def show(self) -> RenderableType:
        parts: list[RenderableType] = [self._metrics(), self._classes()]
        if self.resolutions:
            parts.append(_estimates("resolution, px", self.resolutions))
        if self.corruptions:
            parts += [self._corruptions(), "mean of each: over severities 1 to 5, our own (docs/evaluate.md)"]
        if self.against is not None:
            parts.append(_show_against(self.against))
        return Group(*parts)

    def _metrics(self) -> Table:
        table = Table(title=f"{self.images:,} test images at {self.resolution} px", title_justify="left")
        table.add_column("metric", no_wrap=True)
        table.add_column("value", justify="right")
        table.add_column("95% interval", justify="right", no_wrap=True)
        for name, estimate in self.scores.metrics.items():
            table.add_row(name, *_cells(estimate))
        if self.averaged is not None:
            scores, against = self.averaged
            table.add_section()
            for name, estimate in scores.metrics.items():
                table.add_row(f"{name}, averaged views", *_cells(estimate))
            table.add_row("accuracy: averaged - plain", *_difference_cells(against))
            table.add_row("McNemar's exact test", f"p={against.mcnemar.p:.3g}", "")
        return table

    def _classes(self) -> Table:
        classes = self.scores.classes
        names = sorted(classes, key=lambda name: classes[name].value)
        shown = names[:MOST_CLASSES] if len(names) > MOST_CLASSES else list(classes)
        table = _estimates("class", {name: classes[name] for name in shown})
        if len(shown) < len(names):
            table.caption = f"the worst of {len(names)} classes; --json has all"
            table.caption_justify = "left"
        return table

    def _corruptions(self) -> Table:
        table = Table()
        table.add_column("corruption", no_wrap=True)
        for severity in range(1, 6):
            table.add_column(str(severity), justify="right")
        table.add_column("mean", justify="right")
        table.add_column("95% interval", justify="right", no_wrap=True)
        for name, (severities, estimate) in self.corruptions.items():
            value, ends = _cells(estimate, digits=3)
            table.add_row(name, *(f"{accuracy:.2f}" for accuracy in severities), value, ends)
        means = [estimate.value for _, estimate in self.corruptions.values()]
        table.add_section()
        table.add_row("mean", *[""] * 5, f"{mean(means):.3f}", "")
        return table


def draw_evaluation(evaluation: Evaluation, title: str) -> "Figure":
    """A reliability diagram (DeGroot & Fienberg 1983), beside it accuracy against resolution if it is there.

    Raises:
        UserError: the extra is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise UserError('--plot needs pip install "crescendo[plot]".') from error
    columns = 2 if evaluation.resolutions else 1
    figure = Figure(figsize=(4.6 * columns, 4.4), layout="constrained")
    figure.suptitle(title, fontsize=10)
    axes = figure.subplots(1, columns, squeeze=False)[0]
    bins = evaluation.scores.calibration
    counts = axes[0].twinx()
    counts.bar([b.low for b in bins], [b.images for b in bins], 1 / BINS, align="edge", color="#e4e4e4")
    counts.set_ylabel("images", color="#808080")
    counts.set_ylim(0, 3 * max(b.images for b in bins))
    axes[0].set_zorder(counts.get_zorder() + 1)
    axes[0].patch.set_visible(False)
    axes[0].plot([0, 1], [0, 1], color="#808080", linewidth=1, linestyle=":")
    axes[0].plot([b.confidence for b in bins], [b.accuracy for b in bins], "o-", color=LINE, markersize=4)
    calibration = evaluation.scores.metrics["test/calibration_error"].value
    axes[0].set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy")
    axes[0].set_title(f"calibration error {calibration:.4f}", fontsize=10)
    if evaluation.resolutions:
        estimates = list(evaluation.resolutions.values())
        values = [estimate.value for estimate in estimates]
        ends = [
            [value - (estimate.low or value) for value, estimate in zip(values, estimates, strict=True)],
            [(estimate.high or value) - value for value, estimate in zip(values, estimates, strict=True)],
        ]
        axes[1].errorbar(
            list(evaluation.resolutions), values, ends, fmt="o-", color=LINE, markersize=4, capsize=3
        )
        axes[1].axvline(evaluation.resolution, color="#808080", linewidth=1, linestyle=":")
        axes[1].set(xlabel="resolution of the test, px", ylabel="test accuracy")
        axes[1].set_title(f"evaluated at {evaluation.resolution} px", fontsize=10)
    return figure


def _estimates(heading: str, estimates: Mapping[Any, Estimate]) -> Table:
    table = Table()
    table.add_column(heading, overflow="fold")
    table.add_column("accuracy", justify="right")
    table.add_column("95% interval", justify="right")
    for name, estimate in estimates.items():
        table.add_row(str(name), *_cells(estimate))
    return table


def _cells(estimate: Estimate, digits: int = 4) -> tuple[str, str]:
    ends = "-" if estimate.low is None else f"{estimate.low:.{digits}f} - {estimate.high:.{digits}f}"
    return f"{estimate.value:.{digits}f}", ends


def _difference_cells(against: Against) -> tuple[str, str]:
    value, low, high = against.difference
    return f"{value:+.4f}", f"{low:+.4f} to {high:+.4f}"


def _show_against(against: Against) -> Table:
    table = Table(title=f"against {against.run}", title_justify="left", show_header=False)
    table.add_column(overflow="fold")
    table.add_column(justify="right")
    table.add_row("its accuracy", ", ".join(_cells(against.accuracy)))
    table.add_row("accuracy: here - there", ", ".join(_difference_cells(against)))
    table.add_row("right here alone", str(against.mcnemar.only_first))
    table.add_row("right there alone", str(against.mcnemar.only_second))
    table.add_row("McNemar's exact test", f"p = {against.mcnemar.p:.3g}")
    return table


def _scores_as_json(scores: Scores) -> dict[str, Any]:
    return {
        "metrics": {name: estimate.value for name, estimate in scores.metrics.items()},
        "intervals": {name: [estimate.low, estimate.high] for name, estimate in scores.metrics.items()},
        "class_accuracies": {name: estimate.value for name, estimate in scores.classes.items()},
        "class_intervals": {name: [estimate.low, estimate.high] for name, estimate in scores.classes.items()},
        "calibration": [one._asdict() for one in scores.calibration],
    }


def _against_as_json(against: Against) -> dict[str, Any]:
    return {
        "accuracy": against.accuracy._asdict(),
        "difference": against.difference._asdict(),
        "mcnemar": against.mcnemar._asdict(),
    }
