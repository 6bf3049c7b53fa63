"""The grid of coefficients as nets of equal MACs: the resolution is solved for them.

At phi = 1 all of them would have about twice the MACs, but depths are rounded up, widths to multiples of 8
and maps to whole pixels: EfficientNet-B0 has 2.57 times its MACs at the paper's coefficients. So that a
candidate does not win by being larger, each is trained at the resolution at which its real MACs, counted on
the meta device, come closest to one target.
"""

from collections.abc import Callable
from functools import cache

from crescendo.analysis.costs import count_macs_on_meta, count_parameters
from crescendo.curriculum.budget import largest
from crescendo.curriculum.schedule import nearest_multiple
from crescendo.errors import UserError
from crescendo.models import layers
from crescendo.scaling.candidates import Candidate, LeftOut, Net, Search, SearchSettings, Triple
from crescendo.scaling.coefficients import Coefficients, coefficient_grid

PAPER = Coefficients()
CostAt = Callable[[int], Net]  # what a net costs at a resolution in px


def find_candidates(
    build: Callable[[Coefficients | None], layers.Net],
    settings: SearchSettings,
    *,
    resolution: int,
    multiple_of: int,
    in_channels: int,
    native_size: int,
) -> Search:
    """The nets that the grid's coefficients and the paper's come to, each once.

    Args:
        build: on the meta device, with depth and width at phi = 1; None: as it is.
        resolution: px that the net is evaluated at without scaling.
        multiple_of: of the resolutions.

    Raises:
        UserError: no net can have the target's MACs.
    """
    base = _cost_of(build(None), in_channels)(resolution)
    target = settings.macs or 2 * base.macs
    grid = coefficient_grid(settings.step, settings.tolerance)
    if PAPER not in grid:
        grid.append(PAPER)
    nets: dict[object, tuple[CostAt, list[Coefficients]]] = {}
    for coefficients in grid:
        net = build(coefficients)
        shapes = tuple(tuple(parameter.shape) for parameter in net.parameters())
        nets.setdefault(shapes, (_cost_of(net, in_channels), []))[1].append(coefficients)
    candidates, left_out = [], []
    for cost_at, alike in nets.values():
        at = _solve(cost_at, target, resolution, multiple_of)
        off = at.macs / target
        if abs(off - 1) <= settings.macs_tolerance:
            # The coefficients whose own resolution is the nearest to the one that is trained.
            first, *others = sorted(alike, key=lambda each: abs(each.gamma - at.resolution / resolution))
            by_gamma = cost_at(nearest_multiple(resolution * first.gamma, multiple_of))
            same = [Triple.of(other) for other in others]
            candidates.append(Candidate(**vars(first), by_gamma=by_gamma, solved=at, same=same))
        else:
            alone = at.resolution == resolution and off > 1
            why = "depth and width alone take" if alone else f"the nearest is {at.resolution} px with"
            why = f"{why} {off:.2f} times the MACs"
            left_out += [LeftOut(**vars(each), why=why) for each in alike]
    if not candidates:
        raise UserError(
            f"none of the {len(grid)} candidates can have hydra.sweeper.coefficients.macs={target} within "
            f"{settings.macs_tolerance:g} of it, from {base.macs} at {resolution} px: {left_out[0]}: "
            f"{left_out[0].why}."
        )
    return Search(
        settings=settings,
        base=base,
        macs=target,
        native_size=native_size,
        candidates=sorted(candidates, key=lambda each: (each.alpha, each.beta)),
        left_out=left_out,
    )


def _cost_of(net: layers.Net, in_channels: int) -> CostAt:
    shapes, parameters = net.eval(), count_parameters(net)

    @cache
    def cost_at(resolution: int) -> Net:
        macs = count_macs_on_meta(shapes, resolution, in_channels)
        return Net(resolution=resolution, macs=macs, parameters=parameters)

    return cost_at


def _solve(cost_at: CostAt, target: int, resolution: int, multiple_of: int) -> Net:
    """The net at the resolution, `resolution` or a larger multiple, whose MACs are closest to the target.

    MACs rise in steps with the resolution: of those that cost the same it is the largest.
    """

    def at(step: int) -> Net:
        return cost_at(resolution if step == 0 else (resolution // multiple_of + step) * multiple_of)

    step = largest(lambda step: at(step).macs <= target, 0, stride=1) or 0
    if at(step + 1).macs - target < target - at(step).macs:
        step += 1
    while at(step + 1).macs == at(step).macs:
        step += 1
    return at(step)
