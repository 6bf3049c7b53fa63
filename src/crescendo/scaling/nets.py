"""Nets made larger along the axes of their builders.

A builder that takes `width` and `depth` can be scaled: both multiply its paper's own table, rounded as that
paper does (crescendo.models). An integer `width` is a number of filters (ResNets for CIFAR): it is
multiplied and rounded here as EfficientNet rounds, to multiples of 8, never below 90% of the product.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from crescendo.analysis.costs import check_resolution, shapes_of
from crescendo.curriculum.schedule import nearest_multiple
from crescendo.errors import UserError
from crescendo.models import list_models
from crescendo.models.layers import Net, scaled_width
from crescendo.models.registry import create_model, find_entry
from crescendo.scaling.coefficients import Coefficients, Factors


@dataclass(frozen=True)
class ScaledNet:
    """A registered net, its depth and width multiplied, for square images of `resolution` px."""

    name: str
    depth: float
    width: float
    resolution: int

    def build(self, num_classes: int, in_channels: int) -> Net:
        arguments = scaled_arguments(find_entry(self.name).build, {}, Factors(self.depth, self.width))
        return create_model(self.name, num_classes, in_channels, **arguments)


def scale(
    name: str,
    coefficients: Coefficients,
    phi: float,
    *,
    resolution: int | None = None,
    multiple_of: int = 8,
) -> ScaledNet:
    """The net `name` scaled by phi.

    Args:
        resolution: px that phi = 0 has, the paper's if not given.
        multiple_of: what a scaled resolution is rounded to, as a curriculum's.

    Raises:
        UserError: there is no such net, it lacks an axis that is scaled, or cannot take the resolution.
    """
    net = shapes_of(find_entry(name).build)
    resolution = resolution or net.resolution or net.min_resolution
    factors = coefficients.at(phi)
    scaled_arguments(find_entry(name).build, {}, factors)
    if factors.resolution != 1:
        check_resolution_scales(net)
        resolution = nearest_multiple(resolution * factors.resolution, multiple_of)
    reason = check_resolution(net, resolution)
    if reason is not None:
        raise UserError(f"{reason}, not {resolution}.")
    return ScaledNet(name, factors.depth, factors.width, resolution)


def scaled_arguments(
    build: Callable[..., Any], given: Mapping[str, Any], factors: Factors
) -> dict[str, float | int]:
    """The depth and the width, from `given` or the builder's defaults, multiplied; without those that stay.

    Raises:
        UserError: the builder has no such axis.
    """
    parameters = inspect.signature(build).parameters
    changed: dict[str, float | int] = {}
    for axis, factor in (("depth", factors.depth), ("width", factors.width)):
        if factor == 1:
            continue
        if axis not in parameters:
            raise UserError(
                f"{build.__name__} has no {axis} to scale. Nets that have: {', '.join(scalable_nets())}."
            )
        value = given.get(axis, parameters[axis].default)
        whole = parameters[axis].annotation is int
        changed[axis] = scaled_width(value, factor) if whole else value * factor
    return changed


def scalable_nets() -> list[str]:
    """The names of the nets with both axes."""
    parameters = {name: inspect.signature(find_entry(name).build).parameters for name in list_models()}
    return [name for name, axes in parameters.items() if "width" in axes and "depth" in axes]


def check_resolution_scales(net: Net) -> None:
    """Refuse a net that takes no larger images.

    Raises:
        UserError: names it, and the nets that can be scaled.
    """
    if net.max_resolution is not None:
        raise UserError(
            f"{net.name} takes {net.max_resolution} px at most: it has no resolution to scale. Nets that "
            f"have: {', '.join(scalable_nets())}."
        )
