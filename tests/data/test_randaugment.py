import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images
from torch.utils.data import DataLoader

from crescendo.curriculum.schedule import Curriculum, Ramp
from crescendo.data.datamodule import AddressedDataset
from crescendo.data.images import StoredImages
from crescendo.data.randaugment import NUMBERS, OPERATIONS, operations_of, rand_augment
from crescendo.data.sampler import Draws, TrainingSampler
from crescendo.data.transforms import Augmentation, Transform

MAGNITUDES = (1, 2.5, 5, 7.5, 10, 13)
# Where an operation is at its end: all levels or all images inverted, all of it blended in.
ENDS = {"solarize": 10, "autocontrast": 10, "equalize": 10, "invert": 10}


@pytest.fixture(scope="module")
def photographs():
    """A hundred squares of 64 px from two photographs of flowers and a temple."""
    rng, squares = np.random.default_rng(0), []
    for _ in range(50):
        for picture in load_sample_images().images:
            top, left = (rng.integers(side - 128) for side in picture.shape[:2])
            square = Image.fromarray(picture[top : top + 128, left : left + 128])
            squares.append(square.resize((64, 64)))
    return squares


@pytest.fixture(scope="module")
def digits():
    """A hundred handwritten digits, grey, of 64 px."""
    pixels = (load_digits().images[:100] * 15.9).astype(np.uint8)
    return [Image.fromarray(image).resize((64, 64)) for image in pixels]


def distance(operation, images, magnitude):
    """The mean change, where the images' own numbers are spread evenly."""
    changes = [
        np.abs(np.asarray(operation.apply(image, magnitude, number), dtype=float) - np.asarray(image)).mean()
        for image, number in zip(images, np.arange(0.5, len(images)) / len(images), strict=True)
    ]
    return np.mean(changes)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
@pytest.mark.parametrize("kind", ["photographs", "digits"])
def test_a_larger_magnitude_is_a_stronger_change(operation, kind, request):
    images = request.getfixturevalue(kind)
    if operation not in operations_of(len(images[0].getbands())):
        pytest.skip("grey images have no colour")
    if kind == "digits" and operation.name == "translate_x":
        pytest.skip("a stroke that was moved by its width is as far from itself as it can be")
    distances = [distance(operation, images, magnitude) for magnitude in MAGNITUDES]
    if kind == "digits" and operation.name == "autocontrast":
        assert max(distances) < 2  # they have all the contrast that there is
        return
    for weaker, stronger, magnitude in zip(distances, distances[1:], MAGNITUDES[1:], strict=False):
        assert stronger >= weaker
        if magnitude <= ENDS.get(operation.name, 10):
            assert stronger > weaker
    assert distance(operation, images, 0) == 0


def test_the_table_at_its_full_strength():
    grey = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    at = {each.name: lambda image, each=each: np.asarray(each.apply(image, 10, 0.9)) for each in OPERATIONS}
    flat = np.arange(256)
    assert at["posterize"](grey).flatten().tolist() == (flat // 16 * 16).tolist()  # 4 of 8 bits
    assert at["solarize"](grey).flatten().tolist() == (255 - flat).tolist()
    assert at["invert"](grey).flatten().tolist() == (255 - flat).tolist()
    assert at["solarize_add"](grey).flatten()[[0, 127, 128]].tolist() == [110, 237, 128]
    half = np.zeros((20, 20), np.uint8)
    half[:, 10:] = 200
    moved = at["translate_x"](Image.fromarray(half))
    assert (moved[:, :1] == 0).all()
    assert (moved[:, 1:10] == 200).sum() >= 160  # by 9 of 20 px
    assert (moved[:, 12:] == 128).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_nothing_changes_at_0_and_every_image_on_its_own(channels):
    images = torch.randint(0, 256, (8, channels, 12, 12), dtype=torch.uint8)
    numbers = np.random.default_rng(0).random((8, NUMBERS))
    assert rand_augment(images, numbers, 0) is images
    whole = rand_augment(images, numbers, 7)
    assert whole.shape == images.shape
    assert whole.is_contiguous(memory_format=torch.channels_last)
    assert not torch.equal(whole, images)
    for index in range(8):
        alone = rand_augment(images[index : index + 1], numbers[index : index + 1], 7)
        assert torch.equal(alone[0], whole[index])


def test_translations_scale_with_the_resolution():
    (translate,) = [each for each in OPERATIONS if each.name == "translate_x"]
    shares = []
    for side in (20, 80):
        edge = Image.fromarray(np.repeat(np.arange(side)[None] >= side // 2, side, 0).astype(np.uint8) * 255)
        moved = np.asarray(translate.apply(edge, 0.2 / 0.45 * 10, 0.9))[0]
        shares.append(np.argmax(moved > 128) / side)
    assert shares[0] == pytest.approx(shares[1], abs=0.03)
    assert shares[0] == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize("workers", [0, 2])
def test_each_epoch_has_its_stages_magnitude(workers, photographs):
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in photographs])).permute(0, 3, 1, 2)
    images = StoredImages(pixels.contiguous(), np.zeros(100, np.int64))
    transform = Transform(3, augmentation=Augmentation(flip=True), seed=5)
    curriculum = Curriculum(4, Ramp(32, 64), 2, knobs={"randaugment": Ramp(0, 9)})
    sampler = TrainingSampler(100, 25, curriculum, seed=5)
    loader = DataLoader(
        AddressedDataset(images, transform),
        batch_sampler=sampler,
        collate_fn=lambda batch: batch,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    for epoch, magnitude, resolution in ((0, 0, 32), (1, 0, 32), (2, 9, 64), (3, 9, 64)):
        sampler.set_epoch(epoch)
        for (batch, _), draws in zip(loader, sampler, strict=True):
            assert (draws.randaugment, draws.resolution) == (magnitude, resolution)
            expected = images.batch(Draws(draws.indices, epoch, resolution, magnitude), transform)
            assert torch.equal(batch.images, expected)
            plain = images.batch(Draws(draws.indices, epoch, resolution), transform)
            assert torch.equal(batch.images, plain) == (magnitude == 0)


@pytest.mark.parametrize(("magnitude", "share"), [(5, 0), (10, 0.015), (15, 0.03), (25, 0.06)])
def test_images_do_not_go_blank(magnitude, share, photographs):
    """Half inverted, moved away, or without contrast or brightness, an image would be of one level.

    The share that is left comes of two operations one upon the other.
    """
    images = torch.from_numpy(np.stack(photographs)).permute(0, 3, 1, 2)
    images = images[images.flatten(1).float().std(1) > 30]  # some are of the sky alone
    assert len(images) > 50
    numbers = np.random.default_rng(0).random((20, len(images), NUMBERS))
    changed = torch.cat([rand_augment(images, each, magnitude) for each in numbers]).flatten(1)
    blank = (changed.amax(1) - changed.amin(1) < 8).float().mean()
    assert blank <= share


def test_invert_happens_to_a_share_of_the_images(photographs):
    (invert,) = [each for each in OPERATIONS if each.name == "invert"]
    image = np.asarray(photographs[0])
    numbers = (0.0, 0.24, 0.26, 0.99)
    results = [np.asarray(invert.apply(photographs[0], 2.5, number)) for number in numbers]
    for result, inverted in zip(results, (True, True, False, False), strict=True):
        assert np.array_equal(result, 255 - image if inverted else image)
    assert np.array_equal(np.asarray(invert.apply(photographs[0], 12, 0.999)), 255 - image)
