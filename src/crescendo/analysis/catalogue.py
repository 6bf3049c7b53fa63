"""All nets side by side: what they cost, each at the classes, channels and resolution of its paper."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter

from rich import box
from rich.table import Table

from crescendo.analysis.costs import count_macs_on_meta, count_parameters, shapes_of
from crescendo.analysis.plan import short_number
from crescendo.models.registry import find_entry


@dataclass(frozen=True)
class Row:
    """A net of the catalogue. `resolution` is its paper's, `macs` are those of one image of it."""

    name: str
    family: str
    year: int
    parameters: int
    macs: int
    resolution: int
    min_resolution: int


def make_catalogue(names: Iterable[str], order: str = "year") -> list[Row]:
    """The rows of these nets by a field of Row, upwards; equal ones, and by name, in the order given."""
    rows = [_row(name) for name in names]
    return rows if order == "name" else sorted(rows, key=attrgetter(order))


def show_catalogue(rows: Sequence[Row]) -> Table:
    """The rows as a table for a terminal of 80 columns."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, caption_justify="left")
    table.caption = "px: the paper's resolution, at which MACs are counted; min px: the smallest"
    for heading in ("net", "family", "year", "parameters", "MACs", "px", "min px"):
        table.add_column(heading, justify="left" if heading in ("net", "family") else "right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.name,
            row.family,
            str(row.year),
            short_number(row.parameters),
            short_number(row.macs),
            str(row.resolution),
            str(row.min_resolution),
        )
    return table


def _row(name: str) -> Row:
    entry = find_entry(name)
    net = shapes_of(entry.build).eval()
    assert net.resolution is not None, f"{name} states no resolution"
    return Row(
        name=name,
        family=entry.family,
        year=entry.year,
        parameters=count_parameters(net),
        macs=count_macs_on_meta(net, net.resolution, entry.in_channels),
        resolution=net.resolution,
        min_resolution=net.min_resolution,
    )
