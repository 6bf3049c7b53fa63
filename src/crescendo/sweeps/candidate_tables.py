"""The candidates of a search for coefficients, and where they stand: for a terminal, as markdown, as csv."""

import csv
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from crescendo.analysis.comparison_table import markdown_table
from crescendo.analysis.plan import short_number
from crescendo.analysis.uncertainty import Interval
from crescendo.scaling.candidates import Candidate, Search, Triple
from crescendo.sweeps.winner import Lead, Outcome, Standing

COSTS = ("product", "px by\ngamma", "x base", "px", "MACs", "of\ntarget", "parameters")
RESULTS = ("runs", "validation\naccuracy", "test\naccuracy", "winner's\nlead", "p")


def show_candidates(search: Search) -> RenderableType:
    """A search before its first training, and what was left out."""
    table = _table("coefficients", *COSTS)
    for candidate in search.candidates:
        table.add_row(_short(candidate), *_costs(candidate, search))
    return Group(table, *(Text(line) for line in notes_of(search)))


def show_standings(outcome: Outcome) -> RenderableType:
    """What the trainings came to, the best first; how many they are where that differs."""
    first = int(len({len(standing.validated) for standing in outcome.standings}) == 1)
    table = _table("coefficients", "px", *RESULTS[first:])
    for standing, lead in zip(outcome.standings, outcome.leads, strict=True):
        px = str(standing.candidate.solved.resolution)
        table.add_row(_short(standing.candidate), px, *_results(standing, lead)[first:])
    return Group(table, *(Text(line) for line in outcome.sentences))


def notes_of(search: Search) -> Iterator[str]:
    """What the columns are, which coefficients share a net, and which were left out."""
    base = search.base
    yield (
        f"base: {short_number(base.macs)} MACs at {base.resolution} px, {short_number(base.parameters)} "
        f"parameters; target: {short_number(search.macs)} MACs"
    )
    yield "coefficients: alpha beta gamma; product: alpha * beta^2 * gamma^2"
    yield "x base: MACs at the resolution that gamma gives; px: the one trained, solved for the target"
    enlarged = [each for each in search.candidates if each.solved.resolution > search.native_size]
    if enlarged:
        yield f"above {search.native_size} px images are enlarged: there is nothing more to see in them"
    for candidate in search.candidates:
        if candidate.same:
            yield f"{_short(candidate)} is also the net of {', '.join(map(_short, candidate.same))}"
    for other in search.left_out:
        yield f"left out: {_short(other)}: {other.why}"


def write_markdown(outcome: Outcome, path: Path) -> None:
    """Everything in one table, then the winner in words."""
    rows = [
        [_short(standing.candidate), *_costs(standing.candidate, outcome.search), *_results(standing, lead)]
        for standing, lead in zip(outcome.standings, outcome.leads, strict=True)
    ]
    table = markdown_table(["coefficients"], [*COSTS, *RESULTS], rows)
    lines = [*table, "", *(f"{line}  " for line in (*outcome.sentences, *notes_of(outcome.search)))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_csv(outcome: Outcome, path: Path) -> None:
    """A row for each finished training."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        names = ["alpha", "beta", "gamma", "resolution", "macs", "parameters"]
        writer.writerow([*names, "seed", "validation_accuracy", "test_accuracy"])
        for standing in outcome.standings:
            candidate, net = standing.candidate, standing.candidate.solved
            for seed, validated in standing.validated.items():
                coefficients = (candidate.alpha, candidate.beta, candidate.gamma)
                costs = (net.resolution, net.macs, net.parameters)
                writer.writerow([*coefficients, *costs, seed, validated, standing.tested[seed]])


def _table(first: str, *others: str) -> Table:
    table = Table()
    table.add_column(first, no_wrap=True)
    for heading in others:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _short(coefficients: Triple) -> str:
    return f"{coefficients.alpha:g} {coefficients.beta:g} {coefficients.gamma:g}"


def _costs(candidate: Candidate, search: Search) -> list[str]:
    net = candidate.solved
    return [
        f"{candidate.coefficients.product:.3f}",
        str(candidate.by_gamma.resolution),
        f"{candidate.by_gamma.macs / search.base.macs:.2f}",
        str(net.resolution),
        short_number(net.macs),
        f"{net.macs / search.macs:.3f}",
        short_number(net.parameters),
    ]


def _results(standing: Standing, lead: Lead | None) -> list[str]:
    if not standing.validated:
        return ["0", "-", "-", "-", "-"]
    return [
        str(len(standing.validated)),
        Interval.of(list(standing.validated.values())).show(4),
        f"{mean(standing.tested.values()):.4f}",
        "" if lead is None else lead.difference.show(4, "+"),
        "" if lead is None else ("-" if lead.p is None else f"{lead.p:.3f}"),
    ]
