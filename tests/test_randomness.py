import traceback

import numpy as np
import pytest
import torch

from crescendo.randomness import permutation, seed_device, seed_of, uniform

INDICES = np.arange(4000)


def draw(seed=0, epoch=0, indices=INDICES, count=4):
    return uniform(seed, epoch, indices, count)


def correlation(a, b):
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def test_numbers_belong_to_their_address_and_not_to_their_place():
    everything = draw()
    some = np.array([17, 3, 3999])
    assert np.array_equal(draw(indices=some), everything[some])
    assert np.array_equal(draw(count=2), everything[:, :2])
    assert draw(indices=INDICES[:0]).shape == (0, 4)


def test_the_numbers_are_these_on_every_machine():
    """Worked out with Python's integers from the definition of SplitMix64."""
    mask, golden = 2**64 - 1, 0x9E3779B97F4A7C15

    def scramble(x):
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & mask
        x = (x ^ x >> 27) * 0x94D049BB133111EB & mask
        return x ^ x >> 31

    key = 0
    for coordinate in (7, 2, 5):
        key = scramble(key * golden + scramble(coordinate + golden & mask) & mask)
    expected = [(scramble(key + column * golden & mask) >> 11) / 2**53 for column in (1, 2, 3)]
    assert uniform(7, 2, np.array([5]), 3).tolist() == [expected]


def test_numbers_are_uniform_in_every_column():
    numbers = draw()
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert numbers.mean(0) == pytest.approx(0.5, abs=0.02)  # 4 sigma is 0.018
    assert numbers.var(0) == pytest.approx(1 / 12, abs=0.005)
    for column in numbers.T:
        counts, _ = np.histogram(column, bins=10, range=(0, 1))
        assert 310 < counts.min() <= counts.max() < 490  # 400 each, sigma 19


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (draw(count=8)[:, :-1], draw(count=8)[:, 1:]),
        (draw()[:-1], draw()[1:]),
        (draw(), draw(epoch=1)),
        (draw(), draw(seed=1)),
        (draw(seed=1), draw(epoch=1)),
        (draw()[:-1], draw(epoch=1)[1:]),
        (draw(seed=2**32), draw(seed=2**33)),
    ],
    ids=["columns", "indices", "epochs", "seeds", "seed-epoch", "index-epoch", "high-bits"],
)
def test_neighbours_are_unrelated(a, b):
    assert not (a == b).any()
    assert abs(correlation(a, b)) < 0.05  # sigma is at most 0.016
    assert abs(correlation(np.abs(a - 0.5), np.abs(b - 0.5))) < 0.05


def test_a_permutation_holds_each_index_once():
    order = permutation(3, 1, 500)
    assert sorted(order) == list(range(500))
    assert np.array_equal(order, permutation(3, 1, 500))


@pytest.mark.parametrize("other", [(3, 2), (4, 1), (1, 3)])
def test_permutations_of_other_epochs_and_seeds_are_unrelated(other):
    same_place = permutation(3, 1, 500) == permutation(*other, 500)
    assert same_place.sum() < 8  # one by chance


def test_seeds_are_distinct_and_in_the_range_that_torch_takes():
    addresses = [(s, e, b, r) for s in range(6) for e in range(6) for b in range(6) for r in range(6)]
    seeds = {seed_of(*address) for address in addresses}
    assert len(seeds) == 6**4
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62
    assert seed_of(1, 23) != seed_of(12, 3)
    assert seed_of(1, 2, 3, 4) == seed_of(1, 2, 3, 4)


def test_a_device_draws_as_torch_seeds_it(monkeypatch):
    """Nor is a seed kept for devices that are not there, for which torch writes down the stack."""
    torch.manual_seed(5)
    expected = torch.rand(8)
    monkeypatch.setattr(traceback, "format_stack", lambda: pytest.fail("another device is told"))
    seed_device(5, torch.device("cpu"))
    assert torch.equal(torch.rand(8), expected)
