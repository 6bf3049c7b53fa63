from itertools import chain

import numpy as np
import pytest
from lightning.fabric.utilities.data import _set_sampler_epoch
from torch.utils.data import DataLoader

from crescendo.curriculum.schedule import Curriculum, Ramp
from crescendo.data.sampler import EvaluationSampler, TrainingSampler, repeats

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


LABELS = np.repeat([0, 3, 4], [30, 15, 5])  # 50 images of three classes, no class 1 or 2


def balanced(**settings):
    return sampler(balance=LABELS, **settings)


def counts(flat):
    return np.bincount(LABELS[flat], minlength=5).tolist()


def test_a_balanced_epoch_draws_each_class_equally_often_in_as_many_steps():
    drawn = indices(balanced())
    assert [len(batch) for batch in drawn] == [12] * 4
    flat = list(chain(*drawn))
    assert counts(flat) == [16, 0, 0, 16, 16]
    assert len(set(flat[:16])) > 5  # shuffled: no class comes first
    assert max(counts(flat[:12])) < 12


def test_a_class_of_few_images_repeats_them_evenly_and_one_of_many_is_subsampled():
    times = np.bincount(list(chain(*indices(balanced()))), minlength=50)
    assert sorted(times[:30].tolist()) == [0] * 14 + [1] * 16
    assert sorted(times[30:45].tolist()) == [1] * 14 + [2]
    assert sorted(times[45:].tolist()) == [3, 3, 3, 3, 4]


def test_other_epochs_draw_others_and_each_again_the_same():
    first, second = (set(chain(*indices(balanced(epoch=epoch)))) for epoch in (0, 1))
    assert first != second
    assert indices(balanced(epoch=1)) == indices(balanced(epoch=1))
    assert indices(balanced(epoch=1)) != indices(balanced(epoch=1, seed=1))


def test_what_classes_cannot_share_evenly_goes_to_some_of_them():
    shares = [counts(list(chain(*indices(balanced(batch_size=25, epoch=epoch))))) for epoch in range(4)]
    assert all(sorted(share) == [0, 0, 16, 17, 17] for share in shares)
    assert len({tuple(share) for share in shares}) > 1
    few = [counts(list(chain(*indices(balanced(size=2, batch_size=2, epoch=epoch))))) for epoch in range(4)]
    assert all(sorted(share) == [0, 0, 0, 1, 1] for share in few)


def test_each_draw_of_an_image_says_how_often_it_came_before():
    seen = [
        pair
        for draws in balanced(epoch=2)
        for pair in zip(draws.indices.tolist(), draws.repeats.tolist(), strict=True)
    ]
    for index in {index for index, _ in seen}:
        before = [repeat for other, repeat in seen if other == index]
        assert before == list(range(len(before)))


def test_repeats_are_counted_in_the_order_of_drawing():
    assert repeats(np.array([[5, 2, 5], [5, 7, 2]])).tolist() == [[0, 0, 1], [2, 0, 1]]


@pytest.mark.parametrize("parts", [1, 2])
def test_balanced_global_batches_are_the_same_on_any_number_of_devices(parts):
    def draws(share):
        return [list(zip(d.indices.tolist(), d.repeats.tolist(), strict=True)) for d in share]

    alone = draws(balanced(parts=parts, epoch=1))
    two = [draws(balanced(parts=parts, epoch=1, rank=rank, ranks=2)) for rank in range(2)]
    assert [sorted(a + b) for a, b in zip(*two, strict=True)] == [sorted(batch) for batch in alone]


def test_a_balanced_epoch_goes_on_inside():
    made = balanced()
    made.go_on(epoch=1, batches=3)
    whole = list(balanced(epoch=1))
    (rest,) = made
    assert rest.indices.tolist() == whole[3].indices.tolist()
    assert rest.repeats.tolist() == whole[3].repeats.tolist()


def test_a_repeated_epoch_draws_a_third_of_the_images_three_times_each_in_as_many_steps():
    drawn = list(sampler(repeat=True))
    assert [len(draws.indices) for draws in drawn] == [12] * 4
    for draws in drawn:  # four images a batch, each three times, told apart by their repeat
        images = draws.indices.reshape(4, 3)
        assert (images == images[:, :1]).all()
        assert draws.repeats.reshape(4, 3).tolist() == [[0, 1, 2]] * 4
    assert len({index for draws in drawn for index in draws.indices.tolist()}) == 16


def test_repeated_epochs_draw_others_and_each_again_the_same():
    epochs = [set(chain(*indices(sampler(repeat=True, epoch=epoch)))) for epoch in range(3)]
    assert len(set.union(*epochs)) > 25
    assert indices(sampler(repeat=True, epoch=1)) == indices(sampler(repeat=True, epoch=1))
    assert indices(sampler(repeat=True, epoch=1)) != indices(sampler(repeat=True, epoch=1, seed=1))


def test_a_batch_that_three_does_not_divide_goes_on_with_the_same_image():
    first, second, *_ = sampler(size=50, batch_size=10, repeat=True)
    assert first.repeats.tolist() == [0, 1, 2] * 3 + [0]
    assert second.repeats.tolist()[:3] == [1, 2, 0]
    assert second.indices[0] == second.indices[1] == first.indices[-1]


def test_the_repeats_of_an_image_are_on_several_devices_and_augmented_in_other_ways():
    shares = [list(sampler(repeat=True, rank=rank, ranks=3)) for rank in range(3)]
    for step in zip(*shares, strict=True):
        assert all(np.array_equal(draws.indices, step[0].indices) for draws in step)
        assert [draws.repeats.tolist() for draws in step] == [[0] * 4, [1] * 4, [2] * 4]


def test_a_repeated_epoch_goes_on_inside():
    made = sampler(repeat=True)
    made.go_on(epoch=1, batches=3)
    whole = list(sampler(repeat=True, epoch=1))
    (rest,) = made
    assert rest.indices.tolist() == whole[3].indices.tolist()
    assert rest.repeats.tolist() == whole[3].repeats.tolist()
