"""The grid of coefficients, the resolutions that bring its nets to equal MACs, and what is refused."""

import pytest
import torch
from torch import nn

from crescendo.coefficient_search import search_for
from crescendo.errors import UserError
from crescendo.experiment import build_curriculum, build_net
from crescendo.scaling.candidates import SearchSettings
from crescendo.scaling.coefficients import Coefficients, coefficient_grid

SETTINGS = {"step": 0.2, "tolerance": 0.05, "macs": None, "macs_tolerance": 0.1}
SMALL = "experiment=small_efficientnet"


def settings(**others):
    return SearchSettings.checked(SETTINGS | others)


def triples(found):
    return [(each.alpha, each.beta, each.gamma) for each in found]


def hooked_macs(net, resolution, in_channels):
    """Multiply-accumulates of one image, added up by hooks on the layers of the real net."""
    total = []

    def add(layer, arguments, output):
        inputs = layer.in_features if isinstance(layer, nn.Linear) else layer.weight[0].numel()
        total.append(output.numel() * inputs)

    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(add)
    with torch.no_grad():
        net.eval()(torch.zeros(1, in_channels, resolution, resolution))
    return sum(total)


def test_the_grid_of_a_fifth():
    # 1.2^2 = 1.44, 1.4^2 = 1.96, 1.6^2 = 2.56: by hand, from 1.9 to 2.1.
    assert triples(coefficient_grid(0.2, 0.05)) == [
        (1, 1, 1.4),
        (1, 1.2, 1.2),
        (1, 1.4, 1),
        (1.4, 1, 1.2),
        (1.4, 1.2, 1),
        (2, 1, 1),
    ]


def test_the_grid_of_a_twentieth_is_that_of_whole_numbers():
    least, most = 190 * 20**5, 210 * 20**5  # hundredths of 20^5, which is a product of 1
    exact = [
        (a, b, c)
        for a in range(20, 43)
        for b in range(20, 43)
        for c in range(20, 43)
        if least <= 100 * a * b**2 * c**2 <= most
    ]
    grid = triples(coefficient_grid(0.05, 0.05))
    assert [tuple(round(20 * value) for value in each) for each in grid] == exact
    assert len(grid) == 111
    assert {(1.2, 1.1, 1.15), (1.9, 1, 1), (2.1, 1, 1)} <= set(grid)
    for each in grid:  # what a job would refuse
        Coefficients(*each).check_product()


def test_candidates_have_the_macs_that_all_share(configuration):
    config = configuration(SMALL)
    search = search_for([config], settings())
    base = build_net(config)
    assert search.base.resolution == 14
    assert search.base.macs == hooked_macs(base, 14, 1)
    assert search.macs == 2 * search.base.macs
    assert triples(search.candidates) == [
        (1, 1, 1.4),
        (1, 1.2, 1.2),
        (1, 1.4, 1),
        (1.2, 1.1, 1.15),  # the paper's, beside the grid
        (1.4, 1, 1.2),
        (2, 1, 1),
    ]
    (left_out,) = search.left_out
    assert triples([left_out]) == [(1.4, 1.2, 1)]
    assert left_out.why.startswith("depth and width alone take 1.16 times")
    for candidate in (search.candidates[1], search.candidates[3]):
        trained = configuration(SMALL, *candidate.overrides)
        net = build_net(trained)
        resolution = build_curriculum(trained, net).evaluation_resolution
        assert resolution == candidate.solved.resolution
        off = {
            px: abs(hooked_macs(net, px, 1) - search.macs)
            for px in (resolution - 2, resolution - 1, resolution, resolution + 1, resolution + 2)
        }
        assert min(off, key=off.__getitem__) == resolution
        assert candidate.solved.macs == hooked_macs(net, resolution, 1)
        assert candidate.solved.parameters == sum(weight.numel() for weight in net.parameters())


def test_coefficients_of_one_net_are_trained_once(configuration):
    """Stages of 3 blocks times 1.4 and 1.6 have 5, and 16 filters times 1.1 stay 16."""
    config = configuration("model=resnet20", "curriculum=constant")
    search = search_for([config], settings(step=0.1))
    (found,) = [each for each in search.candidates if each.stands_for(Coefficients(1.4, 1, 1.2))]
    assert {*triples([found, *found.same])} == {(1.4, 1.1, 1.1), (1.6, 1, 1.1), (1.4, 1, 1.2), (1.6, 1.1, 1)}
    assert (found.gamma, found.solved.resolution) == (1.1, 34)  # 32 sqrt(2 / (5/3)) are 35, less rounding
    assert not found.stands_for(Coefficients())
    known = [triple for each in search.candidates for triple in (each, *each.same)] + search.left_out
    assert len(known) == len({*triples(known)}) == 22 + 1  # the grid, and the paper's


def test_the_macs_that_all_share_can_be_given(configuration):
    search = search_for([configuration(SMALL)], settings(macs="34M", macs_tolerance=0.07))
    assert search.macs == 34_000_000
    assert all(abs(each.solved.macs / 34e6 - 1) <= 0.07 for each in search.candidates)
    (resolution_alone,) = [each for each in search.candidates if each.gamma == 1.4]
    assert resolution_alone.solved.resolution == 28  # the base's 8.6M times 3.99


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"step": 0}, "hydra.sweeper.coefficients.step=0: should be greater than or equal to 0.02"),
        (
            {"tolerance": 0.1},
            "hydra.sweeper.coefficients.tolerance=0.1: should be less than or equal to 0.05",
        ),
        ({"macs": "20X"}, "hydra.sweeper.coefficients.macs=20X: must be a number above 0, with a unit"),
        ({"macs": -1}, "hydra.sweeper.coefficients.macs=-1: should be greater than 0"),
        ({"macs_tolerance": 1}, "hydra.sweeper.coefficients.macs_tolerance=1: should be less than 1"),
        ({"stride": 2}, "hydra.sweeper.coefficients.stride=2: Extra inputs are not permitted"),
    ],
)
def test_a_setting_that_cannot_be_is_named(values, message):
    with pytest.raises(UserError) as refusal:
        settings(**values)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("overrides", "others", "message"),
    [
        (["scaling=compound"], {}, "scaling=compound: sweep=compound_coefficients tries its own"),
        (["model=googlenet", "curriculum.resolution.end=96"], {}, "googlenet has no depth to scale"),
        (["model=lenet5", "curriculum=constant"], {}, "lenet5 takes 32 px at most"),
        (["model=resnet20"], {"macs": "1M"}, "can have hydra.sweeper.coefficients.macs=1000000 within 0.1"),
    ],
)
def test_a_net_without_a_search_is_refused(overrides, others, message, configuration):
    with pytest.raises(UserError) as refusal:
        search_for([configuration(*overrides)], settings(step=1, **others))
    assert message in str(refusal.value)


def test_a_search_is_for_one_net(configuration):
    configs = [configuration("model=resnet20", f"model.width={width}", "seed=3") for width in (8, 16)]
    with pytest.raises(UserError, match=r"for one net, with several seeds: model\.width differ"):
        search_for(configs, settings())


def test_a_net_with_few_sizes_names_what_it_leaves_out(configuration):
    """EfficientNet-B0 has maps of one pixel at 32 px, and of two from 34 px on."""
    config = configuration("model=efficientnet_b0", "data=fashion_mnist", "curriculum=constant")
    search = search_for([config], settings(step=0.4))
    whys = {(each.alpha, each.beta, each.gamma): each.why for each in search.left_out}
    assert whys[1, 1, 1.4].startswith("the nearest is 34 px with 1.")
    assert all(each.solved.resolution == 32 for each in search.candidates)
