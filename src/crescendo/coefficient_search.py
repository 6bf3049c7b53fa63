"""The candidates of sweep=compound_coefficients, from the configurations that it was started with."""

from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from crescendo.analysis.costs import shapes_of
from crescendo.analysis.grouping import differing_settings, flat_settings
from crescendo.config import validate
from crescendo.errors import UserError
from crescendo.experiment import build_curriculum, build_net, build_scaling
from crescendo.models.layers import Net
from crescendo.scaling.candidates import Search, SearchSettings
from crescendo.scaling.coefficients import Coefficients
from crescendo.scaling.nets import check_resolution_scales
from crescendo.scaling.search import find_candidates
from crescendo.targets import check_arguments


def search_for(configs: Sequence[DictConfig], settings: SearchSettings) -> Search:
    """What the net of these configurations, which differ in their seeds alone, is scaled to.

    Raises:
        UserError: they differ in more, scale already, or their net cannot be scaled.
    """
    for config in configs:
        validate(config)
    config = configs[0]
    flat = [flat_settings(OmegaConf.to_container(each, resolve=True)) for each in configs]
    if differing := differing_settings(flat):
        raise UserError(
            f"sweep=compound_coefficients searches for one net, with several seeds: {', '.join(differing)} "
            f"differ between its jobs. Start a search for each."
        )
    if build_scaling(config).method != "none":
        raise UserError(
            f"scaling={config.scaling.method}: sweep=compound_coefficients tries its own. Leave it out."
        )
    check_arguments(config)
    base = shapes_of(build_net, config)
    check_resolution_scales(base)
    curriculum = build_curriculum(config, base)
    assert curriculum.evaluation_resolution is not None

    def build(coefficients: Coefficients | None) -> Net:
        if coefficients is None:
            return base
        changed = config.copy()
        changed.scaling = {"method": "compound", "phi": 1.0, **vars(coefficients)}
        return shapes_of(build_net, changed)

    return find_candidates(
        build,
        settings,
        resolution=curriculum.evaluation_resolution,
        multiple_of=curriculum.multiple_of,
        in_channels=config.data.in_channels,
        native_size=config.data.native_size,
    )
