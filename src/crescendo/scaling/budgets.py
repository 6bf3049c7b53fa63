"""What a scaled net costs, and the largest phi that a budget pays for.

Costs are read from the net itself on the meta device. Along phi every one of them rises in steps, since
depths, widths and resolutions are rounded: what is found is the last phi, to a thousandth, before the step
that is too much.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from crescendo.analysis.costs import count_macs_on_meta, count_parameters, shapes_of
from crescendo.analysis.memory import (
    OptimizerFactory,
    StepMemory,
    estimate_step_memory,
    measure_step_memory,
)
from crescendo.analysis.plan import short_number
from crescendo.curriculum.budget import largest
from crescendo.errors import UserError
from crescendo.models.layers import Net
from crescendo.scaling.coefficients import Coefficients
from crescendo.scaling.nets import ScaledNet, scale

COUNTS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
BYTES = {"MB": 10**6, "GB": 10**9, "TB": 10**12, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}

STEPS = 1000  # of phi that are tried between two whole numbers
FIRST_STRIDE = 500
MOST_PHI = 10  # a thousand times the MACs


@dataclass(frozen=True)
class Training:
    """What a net is trained on and with: its costs depend on it."""

    optimizer: OptimizerFactory
    batch_size: int = 32
    num_classes: int = 1000
    in_channels: int = 3


@dataclass(frozen=True)
class Cost:
    """Parameters, multiply-accumulates of one image, and the memory of a training step."""

    parameters: int
    macs: int
    memory: StepMemory


@dataclass(frozen=True)
class Limits:
    """The most of each that may be spent: MACs of one image, bytes of a training step, parameters."""

    macs: int | None = None
    memory: int | None = None
    parameters: int | None = None


@dataclass(frozen=True)
class Excess:
    """A limit that a net does not keep: which one of Limits, what the net takes, and what it may."""

    limit: Literal["macs", "memory", "parameters"]
    needed: int
    allowed: int


@dataclass(frozen=True)
class Fit:
    """The largest phi within limits.

    Attributes:
        binding: the limit that the next phi does not keep, and by how much.
    """

    phi: float
    net: ScaledNet
    cost: Cost
    binding: Excess


def parse_quantity(option: str, text: str, units: Mapping[str, int]) -> int:
    """From "600M", "1.5G" (COUNTS) or "8GB", "7.5GiB" (BYTES) and their like.

    Raises:
        UserError: it is not a positive number with one of these units; it names `option`.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([A-Za-z]*)", text.strip())
    if match is None or match[2] not in units or float(match[1]) <= 0:
        raise UserError(
            f"{option} {text}: must be a number above 0 and a unit: {', '.join(filter(None, units))}."
        )
    return int(float(match[1]) * units[match[2]])


def cost(net: ScaledNet, training: Training) -> Cost:
    """What a net costs.

    Raises:
        UserError: the batch is too small for its batch norm.
    """
    shapes = shapes_of(net.build, training.num_classes, training.in_channels)
    macs = count_macs_on_meta(shapes.eval(), net.resolution, training.in_channels)
    return Cost(count_parameters(shapes), macs, estimated_memory(net, training, shapes))


def estimated_memory(net: ScaledNet, training: Training, shapes: Net | None = None) -> StepMemory:
    """Of a training step; `shapes` is the net on the meta device, if it is there.

    Raises:
        UserError: the batch is too small for its batch norm.
    """
    shapes = shapes or shapes_of(net.build, training.num_classes, training.in_channels)
    try:
        return estimate_step_memory(
            shapes, net.resolution, training.batch_size, training.optimizer, training.in_channels
        )
    except ValueError as error:
        raise UserError(
            f"{net.name} cannot train on batches of {training.batch_size} at {net.resolution} px: {error}"
        ) from error


def measured_memory(net: ScaledNet, training: Training) -> int:
    """Bytes at the allocator's peak in a real training step, on the GPU if there is one."""
    built = net.build(training.num_classes, training.in_channels)
    return measure_step_memory(
        built, net.resolution, training.batch_size, training.optimizer, training.in_channels
    )


def largest_phi(
    name: str,
    coefficients: Coefficients,
    limits: Limits,
    training: Training,
    *,
    resolution: int | None = None,
    multiple_of: int = 8,
) -> Fit:
    """Scale a net as far as all limits allow.

    Args:
        resolution, multiple_of: see `scale`.

    Raises:
        UserError: the net cannot be scaled, it is beyond a limit as it is, or nothing limits it.
    """

    def scaled(step: int) -> ScaledNet:
        return scale(name, coefficients, step / STEPS, resolution=resolution, multiple_of=multiple_of)

    scaled(STEPS)  # a net without the axes is refused before anything is counted

    @cache
    def excess(step: int, of: Limits) -> Excess | None:
        if step > MOST_PHI * STEPS:
            raise UserError(f"{name} keeps these limits up to phi={MOST_PHI}: add one that ends it before.")
        return _excess(scaled(step), of, training)

    def largest_within(of: Limits) -> int | None:
        return largest(lambda step: excess(step, of) is None, 0, FIRST_STRIDE)

    # Memory takes seconds to work out: first is seen how far the others allow.
    counts = replace(limits, memory=None)
    step = largest_within(counts) if counts != Limits() else None
    binds = counts
    if step is None or excess(step, limits) is not None:
        step, binds = largest_within(limits), limits
    binding = excess(0 if step is None else step + 1, binds)
    assert binding is not None
    if step is None:
        raise _too_small(scaled(0), binding, training)
    return Fit(step / STEPS, scaled(step), cost(scaled(step), training), binding)


def _excess(net: ScaledNet, limits: Limits, training: Training) -> Excess | None:
    """The first limit that is not kept."""
    shapes = shapes_of(net.build, training.num_classes, training.in_channels)
    parameters = count_parameters(shapes)
    if limits.parameters is not None and parameters > limits.parameters:
        return Excess("parameters", parameters, limits.parameters)
    if limits.macs is not None:
        macs = count_macs_on_meta(shapes.eval(), net.resolution, training.in_channels)
        if macs > limits.macs:
            return Excess("macs", macs, limits.macs)
    if limits.memory is not None:
        peak = estimated_memory(net, training, shapes).peak
        if peak > limits.memory:
            return Excess("memory", peak, limits.memory)
    return None


def _too_small(base: ScaledNet, binding: Excess, training: Training) -> UserError:
    """What to say of a budget that the net itself exceeds."""
    costs = cost(base, training)
    allowed = {
        "macs": f"{short_number(binding.allowed)} MACs",
        "memory": f"{short_number(binding.allowed)}B of memory",
        "parameters": f"{short_number(binding.allowed)} parameters",
    }[binding.limit]
    return UserError(
        f"{allowed} are less than {base.name} itself takes: at {base.resolution} px it has "
        f"{short_number(costs.macs)} MACs and {short_number(costs.parameters)} parameters, and needs "
        f"{short_number(costs.memory.peak)}B to train on batches of {training.batch_size}."
    )
