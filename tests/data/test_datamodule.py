import shutil
from itertools import chain
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from crescendo.curriculum.schedule import Curriculum, Ramp
from crescendo.data import Augmentation, ImageData, Transform
from crescendo.data.folders import folder
from crescendo.data.images import Sets, StoredImages
from crescendo.errors import UserError


def stored(count, first=0):
    """Images that hold their own number in every pixel, of four classes of unequal size."""
    numbers = torch.arange(first, first + count)
    images = torch.stack((numbers // 256, numbers % 256), 1)[:, :, None, None].expand(-1, -1, 6, 6)
    images = torch.cat((images, images[:, :1]), 1).to(torch.uint8)
    return StoredImages(images, (numbers.numpy() % 10).clip(max=3))


def number_of(images):
    return (images[:, 0, 3, 3].long() * 256 + images[:, 1, 3, 3].long()).tolist()


def make(seed=0, training=200, validation=None, augmentation=Augmentation(), **settings):  # noqa: B008
    curriculum = Curriculum(4, Ramp(6, 8), 2)
    sets = Sets(stored(training), stored(30, 1000), validation)
    settings = {"batch_size": 20, "eval_batch_size": 16} | settings
    return ImageData(sets, Transform(3, augmentation=augmentation, seed=seed), curriculum, seed, **settings)


def members(part):
    return number_of(part.images.images)


def test_training_validation_and_test_are_disjoint_and_complete():
    data = make(val_fraction=0.2)
    training, validation, test = map(members, (data.training, data.validation, data.test))
    assert (len(training), len(validation), len(test)) == (160, 40, 30)
    assert sorted(training + validation) == list(range(200))
    assert test == list(range(1000, 1030))


def test_the_split_is_stratified():
    data = make(val_fraction=0.2)
    assert np.bincount(data.training.images.labels).tolist() == [16, 16, 16, 112]
    assert np.bincount(data.validation.images.labels).tolist() == [4, 4, 4, 28]


def test_runs_of_other_seeds_share_the_split_that_split_seed_turns():
    first = members(make(seed=0).validation)
    assert members(make(seed=1).validation) == first
    assert members(make(seed=0, split_seed=1).validation) != first


def test_a_given_validation_set_is_kept():
    data = make(validation=stored(25, 2000))
    assert members(data.validation) == list(range(2000, 2025))
    assert members(data.training) == list(range(200))


def test_a_fraction_is_taken_of_the_training_images_alone():
    whole, half = make(), make(fraction=0.5)
    assert members(half.validation) == members(whole.validation)
    assert members(half.test) == members(whole.test)
    assert len(half.training) == 90
    assert set(members(half.training)) < set(members(whole.training))
    assert np.bincount(half.training.images.labels).tolist() == [9, 9, 9, 63]


@pytest.mark.parametrize("fraction", [0.99, 0.995])
def test_a_fraction_near_1_leaves_out_few(fraction):
    assert 170 < len(make(fraction=fraction).training) < 180


def of_files(root, **settings):
    sets = folder(str(root))
    settings = {"batch_size": 3, "eval_batch_size": 4, "val_fraction": 0.2} | settings
    return ImageData(sets, Transform(3), Curriculum(1, 8), 0, **settings)


def names(part):
    return [part.images.name(index) for index in range(len(part))]


@pytest.mark.parametrize("given", [(), ("train", "test"), ("train", "val"), ("train", "val", "test")])
def test_a_fraction_of_a_folder_leaves_validation_and_test_whole(image_folder, tmp_path, given):
    """Whether they are directories of their own, or split off."""
    root = image_folder
    if given:
        root = tmp_path / "parts"
        for part in given:
            shutil.copytree(image_folder, root / part)
    whole, third, sixth = (of_files(root, fraction=fraction) for fraction in (1.0, 1 / 3, 1 / 6))
    for part in ("validation", "test"):
        paths = [names(getattr(data, part)) for data in (whole, third, sixth)]
        assert paths[0] == paths[1] == paths[2]
        if {"validation": "val"}.get(part, part) in given:
            assert len(paths[0]) == 36
    everything = np.bincount(whole.training.images.labels)
    expected = np.maximum(1, np.rint(everything / 3)).tolist()
    assert np.bincount(third.training.images.labels).tolist() == expected
    for smaller, larger in ((third, whole), (sixth, third)):
        assert set(names(smaller.training)) < set(names(larger.training))
    held_out = {*names(third.validation), *names(third.test)}
    assert not held_out & set(names(third.training))
    assert names(third.training) == names(of_files(root, fraction=1 / 3).training)
    assert names(third.training) != names(of_files(root, fraction=1 / 3, split_seed=1).training)


def test_repeats_of_an_image_in_an_epoch_are_augmented_differently():
    """And its first time is what it would be by the uniform sampler."""
    noise = torch.randint(0, 256, (80, 3, 24, 24), generator=torch.Generator().manual_seed(0))
    labels = np.repeat([0, 1], [76, 4])
    images = StoredImages(noise.to(torch.uint8), labels)
    uniform, balanced = (
        ImageData(
            Sets(images, images, images),
            *(Transform(3, augmentation=Augmentation(crop_area=(0.3, 1.0))), Curriculum(1, 6), 0),
            batch_size=20,
            eval_batch_size=20,
            sampler=sampler,
        )
        for sampler in ("uniform", "balanced")
    )
    assert uniform.steps_per_epoch == balanced.steps_per_epoch == 4
    once = {
        index: image
        for batch in batches(uniform, 1)
        for index, image in zip(batch.indices.tolist(), batch.images, strict=True)
    }
    seen = [
        (index, image)
        for batch in batches(balanced, 1)
        for index, image in zip(batch.indices.tolist(), batch.images, strict=True)
    ]
    assert np.bincount(labels[[index for index, _ in seen]]).tolist() == [40, 40]
    for index in range(76, 80):
        repeated = [image for other, image in seen if other == index]
        assert len(repeated) == 10
        assert torch.equal(repeated[0], once[index])
        assert len({image.numpy().tobytes() for image in repeated}) == 10


def batches(data, epochs):
    loader = data.train_dataloader()
    for epoch in range(epochs):
        loader.batch_sampler.sampler.set_epoch(epoch)
        yield from loader


def test_batches_are_the_same_bit_by_bit_for_0_and_2_workers():
    augmentation = Augmentation(shift=0.2, flip=True, crop_area=(0.5, 1.0), lighting=0.1)
    first, second = (
        list(batches(make(augmentation=augmentation, num_workers=workers), 4)) for workers in (0, 2)
    )
    assert len(first) == len(second) == 36
    assert [batch.images.shape[-1] for batch in first] == [6] * 18 + [8] * 18
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_batch_holds_the_images_that_its_labels_and_indices_name():
    data = make()
    kept = members(data.training)
    for batch in batches(data, 1):
        assert number_of(batch.images) == [kept[index] for index in batch.indices]
        assert batch.labels.tolist() == [min(number % 10, 3) for number in number_of(batch.images)]
    seen = [number_of(batch.images) for batch in data.test_dataloader()]
    assert [len(numbers) for numbers in seen] == [16, 14]
    assert list(chain(*seen)) == list(range(1000, 1030))


def test_evaluation_takes_the_last_resolution():
    data = make()
    for loader in (data.val_dataloader(), data.test_dataloader()):
        assert {batch.images.shape[-1] for batch in loader} == {8}


def test_steps_are_full_global_batches():
    assert make().steps_per_epoch == 9
    assert make(batch_size=50).steps_per_epoch == 3
    assert make(batch_size=20, parts=2).steps_per_epoch == 9
    assert len(make(batch_size=20, parts=2).train_dataloader()) == 18


class TwoDevices:
    global_rank, world_size = 1, 2
    strategy = SimpleNamespace(root_device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 181}, r"data.batch_size=181 is more than the 180 training images"),
        ({"batch_size": 20, "fraction": 0.1}, r"data.batch_size=20 is more than the 19 training images"),
        ({"parts": 3}, r"data.batch_size=20 cannot be split into trainer.accumulate_grad_batches=3"),
    ],
)
def test_a_batch_that_cannot_be_filled_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        make(**settings)


def test_a_batch_that_devices_cannot_share_is_refused():
    data = make(batch_size=25)
    data.trainer = TwoDevices()
    with pytest.raises(UserError, match=r"data\.batch_size=25 is the global batch.*multiple of 2 devices"):
        data.train_dataloader()


def test_a_device_loads_its_share():
    alone, shared = make(batch_size=20), make(batch_size=20)
    shared.trainer = TwoDevices()
    for whole, share in zip(alone.train_dataloader(), shared.train_dataloader(), strict=True):
        assert share.indices.tolist() == whole.indices.tolist()[1::2]
    tested = [batch.indices.tolist() for batch in shared.test_dataloader()]
    assert list(chain(*tested)) == list(range(1, 30, 2))
