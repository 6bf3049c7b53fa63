"""What `crescendo scale` tells: the scaled net and its costs, how to train it, EfficientNet's own steps."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from crescendo.analysis.plan import short_number
from crescendo.models import efficientnet_v1
from crescendo.scaling.budgets import Fit, Training
from crescendo.scaling.coefficients import Coefficients

OPTIONS = {"macs": "--max-macs", "memory": "--max-memory", "parameters": "--max-params"}
WHY_PUBLISHED_DIFFER = (
    "The published coefficients are not powers of 1.2, 1.1 and 1.15. B1 is deeper and no wider, and up to "
    "B4 all three lie behind the formula: phi=1 has B2's layers, phi=2 B3's but for 16 filters more in the "
    "last. From B5 on width and resolution are within 3% of it, while depth stays 12 to 14% behind. Depths "
    "are rounded up: phi=1 has 23 blocks for B0's 16, and 2.57 times its MACs at 258 px (2.23 at 256 px, "
    "where no map is rounded up), not 1.2 * 1.1^2 * 1.15^2 = 1.92."
)


@dataclass(frozen=True)
class Published:
    """One of EfficientNet B1 to B7, and the formula at the phi of the same number."""

    name: str
    width: float
    depth: float
    resolution: int
    formula_width: float
    formula_depth: float
    formula_resolution: float


def published_efficientnets(coefficients: Coefficients) -> list[Published]:
    """B1 to B7 as published (Tan & Le 2019), beside B0 scaled by phi = 1 to 7; nothing rounded."""
    rows = []
    for phi in range(1, 8):
        variant: efficientnet_v1.Variant = getattr(efficientnet_v1, f"B{phi}")
        factors = coefficients.at(phi)
        rows.append(
            Published(
                f"B{phi}",
                variant.width,
                variant.depth,
                variant.resolution,
                factors.width,
                factors.depth,
                efficientnet_v1.B0.resolution * factors.resolution,
            )
        )
    return rows


def train_command(
    fit: Fit, coefficients: Coefficients, base_resolution: int, training: Training, optimizer: str
) -> str:
    """What trains it: the last curriculum stage and the evaluation have the resolution that was found."""
    overrides = [f"model={fit.net.name}", "scaling=compound", f"scaling.phi={fit.phi:g}"]
    overrides += [
        f"scaling.{name}={getattr(coefficients, name)!r}"
        for name in ("alpha", "beta", "gamma")
        if getattr(coefficients, name) != getattr(Coefficients(), name)
    ]
    overrides.append(f"curriculum.resolution.end={base_resolution}")
    overrides += [f"data.batch_size={training.batch_size}", f"optimizer={optimizer}"]
    return " ".join(["python train.py", *overrides])


def fit_as_json(fit: Fit, command: str, measured: int | None, published: list[Published]) -> dict[str, Any]:
    """The whole of it; numbers are whole, memory in bytes."""
    memory = fit.cost.memory
    return {
        "net": fit.net.name,
        "phi": fit.phi,
        "depth": fit.net.depth,
        "width": fit.net.width,
        "resolution": fit.net.resolution,
        "macs": fit.cost.macs,
        "parameters": fit.cost.parameters,
        "memory": {
            "peak": memory.peak,
            "weights": memory.weights,
            "gradients": memory.gradients,
            "optimizer": memory.optimizer,
            "activations": memory.activations,
        },
        "measured_memory": measured,
        "binding": OPTIONS[fit.binding.limit],
        "command": command,
        "published": [vars(row) for row in published],
    }


def show_fit(fit: Fit, training: Training, measured: int | None) -> RenderableType:
    """The scaled net as a table for a terminal, and what stops it."""
    table = Table(title=f"{fit.net.name} at phi {fit.phi:g}", title_justify="left", show_header=False)
    table.add_column("what")
    table.add_column("value", justify="right")
    memory = fit.cost.memory
    for what, value in (
        ("depth", f"x {fit.net.depth:.4g}"),
        ("width", f"x {fit.net.width:.4g}"),
        ("resolution", f"{fit.net.resolution} px"),
        ("MACs", short_number(fit.cost.macs)),
        ("parameters", short_number(fit.cost.parameters)),
        ("memory of a training step", f"{short_number(memory.peak)}B"),
        ("  weights", f"{short_number(memory.weights)}B"),
        ("  gradients", f"{short_number(memory.gradients)}B"),
        ("  optimizer", f"{short_number(memory.optimizer)}B"),
        ("  activations", f"{short_number(memory.activations)}B"),
    ):
        table.add_row(what, value)
    if measured is not None:
        table.add_row("measured", f"{short_number(measured)}B")
    return Group(table, *(Text(line) for line in _lines(fit, training)))


def show_published(rows: list[Published]) -> RenderableType:
    """EfficientNet's own steps beside the formula's, and why they differ."""
    table = Table(title="published, and by the formula", title_justify="left")
    for heading in ("net", "width", "depth", "px", "phi", "width", "depth", "px"):
        table.add_column(heading, justify="right")
    for phi, row in enumerate(rows, start=1):
        table.add_row(
            row.name,
            f"{row.width:g}",
            f"{row.depth:g}",
            f"{row.resolution}",
            f"{phi}",
            f"{row.formula_width:.2f}",
            f"{row.formula_depth:.2f}",
            f"{row.formula_resolution:.0f}",
        )
    return Group(table, Text(WHY_PUBLISHED_DIFFER))


def _lines(fit: Fit, training: Training) -> Iterator[str]:
    unit = {"macs": " MACs", "memory": "B", "parameters": " parameters"}[fit.binding.limit]
    yield (
        f"{OPTIONS[fit.binding.limit]} binds: the next larger net has "
        f"{short_number(fit.binding.needed)}{unit}, of {short_number(fit.binding.allowed)}{unit} allowed"
    )
    yield (
        f"{training.num_classes} classes, images of {training.in_channels} x {fit.net.resolution} x "
        f"{fit.net.resolution}, batches of {training.batch_size}; "
        f"memory in float32, with the published rates of dropout and drop path"
    )
