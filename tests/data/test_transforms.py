import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from crescendo.data import transforms
from crescendo.data.decoding import read_header, read_region
from crescendo.data.sampler import Draws
from crescendo.data.transforms import NUMBERS, Augmentation, Transform, random_crop
from crescendo.errors import UserError
from crescendo.randomness import uniform

EVERYTHING = Augmentation(shift=0.2, flip=True, crop_area=(0.3, 1.0), lighting=0.1)
NOTHING = Augmentation()


def draws(indices, epoch: int | None = 0, resolution=8):
    return Draws(np.asarray(indices), epoch, resolution)


def noise(count=12, channels=3, height=10, width=10):
    shape = (count, channels, height, width)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def encoded(image):
    array, buffer = image.permute(1, 2, 0).numpy(), io.BytesIO()
    Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(buffer, "png")
    return buffer.getvalue()


def make(transform, images, drawn, kind):
    if kind == "stored":
        return transform.stored(images, drawn)
    return transform.read(InMemory(images, drawn.indices), drawn)


class InMemory:
    """Images as files hand them out, by the indices of the draws."""

    def __init__(self, images, indices):
        self.files = {index: encoded(image) for index, image in zip(indices.tolist(), images, strict=True)}
        self.channels = images.shape[1]

    def size(self, index):
        return read_header(self.files[index])[:2]

    def region(self, index, box, size, *, fast):
        return read_region(self.files[index], box, size, self.channels, self.size(index), fast=fast)


kinds = pytest.mark.parametrize("kind", ["stored", "read"])


@kinds
@pytest.mark.parametrize(
    ("channels", "fit", "augmentation"),
    [
        (1, "resize", Augmentation(shift=0.2, flip=True)),
        (1, "pad", Augmentation(shift=0.2, flip=True)),
        (1, "resize", Augmentation(shift=0.2, flip=True, crop_area=(0.3, 1.0))),
        (3, "resize", EVERYTHING),
        (3, "pad", replace(EVERYTHING, crop_area=None)),
    ],
    ids=["grey", "grey-pad", "grey-crop", "everything", "everything-pad"],
)
@pytest.mark.parametrize("resolution", [7, 10, 16])
def test_a_sample_does_not_depend_on_its_batch(kind, channels, fit, augmentation, resolution):
    images = noise(channels=channels)
    transform = Transform(channels, fit=fit, augmentation=augmentation, seed=3)
    batch = make(transform, images, draws(range(12), 1, resolution), kind)
    order = np.random.default_rng(0).permutation(12)
    shuffled = make(transform, images[order], draws(order, 1, resolution), kind)
    assert torch.equal(shuffled, batch[order])
    alone = [make(transform, images[i : i + 1], draws([i], 1, resolution), kind)[0] for i in range(12)]
    assert torch.equal(torch.stack(alone), batch)


@kinds
@pytest.mark.parametrize("other", [(0, 3), (1, 4)])
def test_another_epoch_or_seed_is_another_augmentation(kind, other):
    images = noise()
    first, second = (
        make(Transform(3, augmentation=EVERYTHING, seed=seed), images, draws(range(12), epoch), kind)
        for epoch, seed in ((1, 3), other)
    )
    assert all((a != b).any() for a, b in zip(first, second, strict=True))


@kinds
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("fit", ["resize", "pad"])
@pytest.mark.parametrize("epoch", [None, 2])
def test_batches_are_uint8_square_and_channels_last(kind, channels, fit, epoch):
    for resolution in (6, 10, 13):
        crop_area = (0.5, 1) if fit == "resize" else None
        transform = Transform(channels, fit=fit, augmentation=Augmentation(shift=0.1, crop_area=crop_area))
        batch = make(transform, noise(channels=channels), draws(range(12), epoch, resolution), kind)
        assert batch.shape == (12, channels, resolution, resolution)
        assert batch.dtype == torch.uint8
        if kind == "stored":
            assert batch.is_contiguous(memory_format=torch.channels_last)


def test_decoded_training_batches_are_channels_last():
    batch = make(Transform(3, augmentation=EVERYTHING), noise(), draws(range(12)), "read")
    assert batch.is_contiguous(memory_format=torch.channels_last)


@kinds
def test_evaluation_is_not_augmented(kind):
    images = noise()
    batch = make(Transform(3, augmentation=EVERYTHING), images, draws(range(12), None, 10), kind)
    assert torch.equal(batch, images)


@kinds
def test_training_without_augmentation_at_the_native_size_is_the_image(kind):
    images = noise()
    assert torch.equal(make(Transform(3), images, draws(range(12), 0, 10), kind), images)


def test_a_shift_moves_whole_pixels_and_zeros_in():
    count, side, reach = 600, 10, 2
    images = noise(1, height=side, width=side).expand(count, -1, -1, -1).clamp_min(1)
    batch = Transform(3, augmentation=Augmentation(shift=0.2)).stored(images, draws(range(count), 0, side))
    canvas = torch.zeros(3, side + 2 * reach, side + 2 * reach, dtype=torch.uint8)
    canvas[:, reach:-reach, reach:-reach] = images[0]
    places = {
        canvas[:, top : top + side, left : left + side].contiguous().numpy().tobytes(): (top, left)
        for top in range(2 * reach + 1)
        for left in range(2 * reach + 1)
    }
    found = [places[image.contiguous().numpy().tobytes()] for image in batch]
    counts = [found.count(place) for place in places.values()]
    assert len(counts) == 25
    assert 8 <= min(counts) <= max(counts) <= 44  # 24 each, sigma 4.8


def test_a_shift_of_less_than_half_a_pixel_is_none():
    images = noise()
    transform = Transform(3, augmentation=Augmentation(shift=0.04))
    assert torch.equal(transform.stored(images, draws(range(12), 0, 10)), images)


@kinds
def test_half_of_the_images_are_mirrored_left_and_right(kind):
    count = 400
    images = noise(1, height=4, width=4).expand(count, -1, -1, -1)
    transform = Transform(3, augmentation=Augmentation(flip=True))
    batch = make(transform, images, draws(range(count), 0, 4), kind)
    mirrored = (batch == images.flip(3)).flatten(1).all(1)
    straight = (batch == images).flatten(1).all(1)
    assert (mirrored ^ straight).all()
    assert 160 < mirrored.sum() < 240  # sigma 10


@kinds
@pytest.mark.parametrize("epoch", [None, 0])
def test_padding_puts_28_px_into_the_middle_of_32(kind, epoch):
    images = noise(2, 1, 28, 28).clamp_min(1)
    batch = make(Transform(1, fit="pad"), images, draws(range(2), epoch, 32), kind)
    assert torch.equal(batch[:, :, 2:30, 2:30], images)
    assert int((batch > 0).sum()) == 2 * 28 * 28


@kinds
def test_padding_shrinks_what_is_too_large(kind):
    batch = make(
        Transform(1, fit="pad"), torch.full((1, 1, 20, 20), 200, dtype=torch.uint8), draws([0]), kind
    )
    assert (batch == 200).all()


@pytest.mark.parametrize(
    ("transform", "epoch"),
    [
        (Transform(3, fit="pad"), None),
        (Transform(3, fit="pad"), 0),
        (Transform(3), None),
        (Transform(3), 0),
        (Transform(3, eval_crop=0.5), None),
    ],
    ids=["pad", "pad-training", "resize", "resize-training", "eval-crop"],
)
def test_stored_and_decoded_images_show_the_same_part(transform, epoch):
    """A wide image whose outer quarters are bright: seen alike, whether it was stored or decoded."""
    images = torch.zeros(1, 3, 16, 32, dtype=torch.uint8)
    images[..., :8] = 250
    images[..., 24:] = 250
    stored, decoded = (make(transform, images, draws([0], epoch, 16), kind) for kind in ("stored", "read"))
    assert torch.equal(stored.float() > 125, decoded.float() > 125)


@kinds
def test_evaluation_sees_the_middle(kind):
    images = torch.zeros(1, 1, 20, 20, dtype=torch.uint8)
    images[..., 5:15, 5:15] = 255
    batch = make(Transform(1, eval_crop=0.5), images, draws([0], None, 10), kind)
    assert (batch == 255).all()


def test_images_are_shrunk_by_averaging():
    stripes = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    stripes[..., 1::4] = stripes[..., 2::4] = 200  # the pixels that a sample without averaging would hit
    for kind in ("stored", "read"):
        batch = make(Transform(1), stripes, draws([0], 0, 8), kind)
        assert (batch[..., 1:-1].float() - 100).abs().max() < 15


def boxes(width, height, area, count=2000):
    return np.array([random_crop(width, height, r, area) for r in uniform(0, 0, np.arange(count), NUMBERS)])


@pytest.mark.parametrize(("width", "height", "area"), [(120, 40, (0.08, 1.0)), (30, 45, (0.3, 0.6))])
def test_random_crop_is_distributed_as_in_torchvision(width, height, area):
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array([RandomResizedCrop.get_params(image, area, (3 / 4, 4 / 3)) for _ in range(2000)])
    top, left, tall, wide = theirs.T
    theirs = np.stack((left, top, wide, tall), axis=1)
    ours = boxes(width, height, area)
    left, top, wide, tall = ours.T
    assert min(left.min(), top.min()) >= 0
    assert min(wide.min(), tall.min()) > 0
    assert (left + wide).max() <= width
    assert (top + tall).max() <= height
    for measure in (
        lambda box: box[:, 2] * box[:, 3] / (width * height),
        lambda box: np.log(box[:, 2] / box[:, 3]),
        lambda box: (box[:, 0] + box[:, 2] / 2) / width,
        lambda box: (box[:, 1] + box[:, 3] / 2) / height,
    ):
        assert measure(ours).mean() == pytest.approx(measure(theirs).mean(), abs=0.025)
        assert measure(ours).std() == pytest.approx(measure(theirs).std(), abs=0.02)


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(100, 10, (43, 0, 13, 10)), (10, 100, (0, 43, 10, 13)), (12, 10, (0, 0, 12, 10))],
)
def test_a_crop_that_cannot_fit_is_the_largest_in_the_centre(width, height, expected):
    row = np.full(NUMBERS, 0.999) if width != 12 else np.r_[np.full(11, 0.5), np.tile([0.99, 0.99], 10)]
    assert random_crop(width, height, row, (0.9, 1.0)) == expected


def test_lighting_moves_colours_along_the_principal_components():
    count = 4000
    images = torch.full((count, 3, 1, 1), 128, dtype=torch.uint8)
    transform = Transform(3, augmentation=Augmentation(lighting=0.1))
    moved = transform.stored(images, draws(range(count), 0, 1)).flatten(1).float() - 128
    assert moved.mean(0).abs().max() < 0.3
    # 25.5 times the root of the sum of (eigenvalue * component)^2, by hand; rounding adds 1/12
    expected = torch.tensor([3.17, 3.25, 3.27])
    assert torch.allclose(moved.std(0), expected, atol=0.15)
    assert torch.corrcoef(moved.T).min() > 0.95  # the first component is brightness


def test_lighting_of_grey_images_is_refused():
    with pytest.raises(UserError, match="lighting"):
        Transform(1, augmentation=Augmentation(lighting=0.1))


@pytest.mark.parametrize(
    "settings", [{"augmentation": Augmentation(crop_area=(0.1, 0.2))}, {"eval_crop": 0.5}]
)
def test_padding_and_cropping_exclude_each_other(settings):
    with pytest.raises(UserError, match=r"data\.fit=pad shows whole images"):
        Transform(3, fit="pad", **settings)


def test_no_two_decisions_share_a_number():
    used = [
        transforms.FLIP,
        transforms.SHIFT,
        transforms.LIGHT,
        transforms.PLACE,
        transforms.CROP,
        transforms.RANDAUGMENT,
    ]
    columns = np.concatenate([np.atleast_1d(np.arange(NUMBERS)[part]) for part in used])
    assert sorted(columns) == list(range(NUMBERS))
