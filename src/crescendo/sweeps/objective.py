"""What a trial of a study is worth: its metric, and what its net costs.

One value, the metric times (cost / target)^weight over some costs:

    A * (MACs / T)^-0.07        Tan & Le 2019, arXiv:1905.11946, section 4
    A * S^-0.07 * P^-0.05       Tan & Le 2021, arXiv:2104.00298, section 3.2: step time S, parameters P

or several, the metric and each cost, none of which is given up for another: a Pareto front. A target is the
cost that counts as 1; it changes no order.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat

from crescendo.config import Group

COSTS = ("macs", "parameters", "step_seconds")  # as in summary.json
CostName = Literal[COSTS]  # type: ignore[valid-type]


class Weighed(Group):
    """A cost in an objective: (cost / target)^weight."""

    target: PositiveFloat
    weight: Annotated[float, Field(lt=0)]


def weighed(metric: float, costs: Mapping[str, float], objective: Mapping[str, Weighed]) -> float:
    """The metric times (cost / target)^weight of every cost of the objective; without any, the metric."""
    value = metric
    for name, term in objective.items():
        value *= (costs[name] / term.target) ** term.weight
    return value


def known_costs(summary: Mapping[str, Any], names: Sequence[str]) -> dict[str, float] | None:
    """These costs from the summary of a run; None if one is not known."""
    costs = {name: summary.get(name) for name in names}
    known = {name: float(cost) for name, cost in costs.items() if cost is not None}
    return known if len(known) == len(costs) else None
