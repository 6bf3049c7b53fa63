from itertools import chain

import numpy as np
import pytest
from lightning.fabric.utilities.data import _set_sampler_epoch
from torch.utils.data import DataLoader

from crescendo.curriculum.schedule import Curriculum, Ramp
from crescendo.data.sampler import EvaluationSampler, TrainingSampler

CURRICULUM = Curriculum(4, Ramp(16, 24), 2)


def sampler(size=50, batch_size=12, seed=0, epoch=0, **settings):
    made = TrainingSampler(size, batch_size, CURRICULUM, seed, **settings)
    made.set_epoch(epoch)
    return made


def indices(made):
    return [draws.indices.tolist() for draws in made]


@pytest.mark.parametrize(
    ("size", "batch_size", "batches"), [(50, 12, 4), (48, 12, 4), (12, 12, 1), (50, 1, 50)]
)
def test_an_epoch_has_full_batches_and_each_index_at_most_once(size, batch_size, batches):
    made = sampler(size, batch_size)
    drawn = indices(made)
    assert [len(batch) for batch in drawn] == [batch_size] * batches
    assert len(made) == batches
    flat = list(chain(*drawn))
    assert len(set(flat)) == len(flat)
    assert set(flat) <= set(range(size))


def test_the_order_belongs_to_seed_and_epoch():
    assert indices(sampler(epoch=1)) == indices(sampler(epoch=1))
    assert indices(sampler(epoch=1)) != indices(sampler(epoch=0))
    assert indices(sampler(epoch=1)) != indices(sampler(epoch=1, seed=1))


def test_each_epoch_leaves_out_others():
    left_out = [set(range(50)) - set(chain(*indices(sampler(epoch=epoch)))) for epoch in range(4)]
    assert all(len(rest) == 2 for rest in left_out)
    assert len(set.union(*left_out)) > 4


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_a_global_batch_is_the_same_on_any_number_of_devices(ranks, parts):
    shares = [indices(sampler(100, 24, parts=parts, rank=rank, ranks=ranks)) for rank in range(ranks)]
    assert all(len(share) == 4 * parts for share in shares)
    assert {len(batch) for share in shares for batch in share} == {24 // parts // ranks}
    for step, expected in enumerate(indices(sampler(100, 24))):
        together = chain(*(share[step * parts + part] for share in shares for part in range(parts)))
        assert sorted(together) == sorted(expected)


def test_a_part_is_the_same_on_any_number_of_devices():
    alone = indices(sampler(batch_size=12, parts=2))
    two = [indices(sampler(batch_size=12, parts=2, rank=rank, ranks=2)) for rank in range(2)]
    assert [set(a) | set(b) for a, b in zip(*two, strict=True)] == [set(batch) for batch in alone]


def test_draws_carry_the_epoch_and_its_resolution():
    for epoch, resolution in enumerate([16, 16, 24, 24]):
        assert {(d.epoch, d.resolution) for d in sampler(epoch=epoch)} == {(epoch, resolution)}


def test_lightning_finds_set_epoch():
    made = sampler()
    _set_sampler_epoch(DataLoader(range(50), batch_sampler=made), 3)
    assert {draws.epoch for draws in made} == {3}


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [1, 3, 37, 113])
def test_evaluation_covers_every_index_once(size, ranks):
    shares = [EvaluationSampler(size, 10, 32, rank=rank, ranks=ranks) for rank in range(ranks)]
    flat = [index for share in shares for draws in share for index in draws.indices]
    assert sorted(flat) == list(range(size))
    for share in shares:
        assert len(list(share)) == len(share)
        assert all(0 < len(draws.indices) <= 10 for draws in share)
        assert {(draws.epoch, draws.resolution) for draws in share} <= {(None, 32)}
        assert all(draws.indices.dtype == np.int64 for draws in share)


def test_what_was_trained_on_is_not_drawn_again():
    made = sampler(20, 4)
    made.go_on(epoch=1, batches=2)
    assert indices(made) == indices(sampler(20, 4, epoch=1))[2:]
    assert len(made) == 5
    made.set_epoch(2)
    assert indices(made) == indices(sampler(20, 4, epoch=2))
    made.go_on(epoch=CURRICULUM.epochs, batches=0)
    assert indices(made) == []
