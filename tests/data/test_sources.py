import gzip
import struct

import numpy as np
import pytest
import torch

from crescendo.data.images import split
from crescendo.data.sources import cifar, digits, idx_images, synthetic
from crescendo.errors import UserError


def test_digits_are_all_there_and_the_test_set_is_fixed_and_stratified():
    sets = digits()
    assert sets.training.images.shape == (1437, 1, 8, 8)
    assert sets.test.images.shape == (360, 1, 8, 8)
    assert sets.validation is None
    assert sets.training.images.dtype == torch.uint8
    assert (int(sets.test.images.min()), int(sets.test.images.max())) == (0, 255)
    of_each = np.bincount(sets.test.labels, minlength=10)
    assert of_each.sum() == 360
    assert of_each.min() >= 34
    assert of_each.max() <= 38
    again = digits()
    assert np.array_equal(again.test.labels, sets.test.labels)
    assert torch.equal(again.test.images, sets.test.images)


def test_no_digit_is_both_trained_and_tested_on():
    sets = digits()
    trained, tested = (
        {image.numpy().tobytes() for image in part.images} for part in (sets.training, sets.test)
    )
    assert len(trained) + len(tested) == 1797  # no two digits are alike, so sets count
    assert not trained & tested


@pytest.mark.parametrize(("share", "size"), [(0.25, 25), (10, 10)])
def test_a_split_is_disjoint_stratified_and_seeded(share, size):
    labels = np.repeat([0, 1], [80, 20])
    first, second = split(labels, share, seed=1)
    assert sorted([*first, *second]) == list(range(100))
    assert len(second) == size
    assert np.bincount(labels[second]).tolist() == [size * 4 // 5, size // 5]
    assert np.array_equal(split(labels, share, seed=1)[1], second)
    assert not np.array_equal(split(labels, share, seed=2)[1], second)


def test_a_split_that_cannot_be_is_refused():
    with pytest.raises(UserError, match=r"3 images of 2 classes cannot be split by 0\.5"):
        split(np.array([0, 0, 1]), 0.5, 0)


# idx


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape) + array.tobytes()


TRAIN = np.arange(6 * 5 * 5, dtype=np.uint8).reshape(6, 5, 5)
TEST = TRAIN[:2] + 100
CONTENTS = {
    "train-images-idx3-ubyte": idx(TRAIN),
    "train-labels-idx1-ubyte": idx(np.array([0, 1, 2, 0, 1, 9], np.uint8)),
    "t10k-images-idx3-ubyte": idx(TEST),
    "t10k-labels-idx1-ubyte": idx(np.array([3, 4], np.uint8)),
}


def write_idx(place, *, gz=False, **changed):
    place.mkdir(parents=True, exist_ok=True)
    for stem, content in (
        CONTENTS | {key.replace("_", "-"): value for key, value in changed.items()}
    ).items():
        if content is not None:
            path = place / (f"{stem}.gz" if gz else stem)
            path.write_bytes(gzip.compress(content, mtime=0) if gz else content)


@pytest.mark.parametrize("below", ["", "MNIST/raw"])
@pytest.mark.parametrize("gz", [False, True])
def test_idx_files_plain_and_zipped(tmp_path, gz, below):
    write_idx(tmp_path / below, gz=gz)
    sets = idx_images("MNIST", str(tmp_path))
    assert np.array_equal(sets.training.images[:, 0].numpy(), TRAIN)
    assert sets.training.images.shape == (6, 1, 5, 5)
    assert sets.training.labels.tolist() == [0, 1, 2, 0, 1, 9]
    assert sets.training.labels.dtype == np.int64
    assert np.array_equal(sets.test.images[:, 0].numpy(), TEST)
    assert sets.test.labels.tolist() == [3, 4]


IMAGES, LABELS = "train_images_idx3_ubyte", "train_labels_idx1_ubyte"
whole = CONTENTS["train-images-idx3-ubyte"]


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize(
    ("file", "content"),
    [
        (IMAGES, b""),
        (IMAGES, whole[:3]),
        (IMAGES, whole[:10]),
        (IMAGES, whole[:-1]),
        (IMAGES, whole + b"x"),
        (IMAGES, b"<html>404</html>"),
        (IMAGES, b"\0\0\x0d" + whole[3:]),
        (IMAGES, CONTENTS["train-labels-idx1-ubyte"]),
        (LABELS, whole),
        (LABELS, CONTENTS["t10k-labels-idx1-ubyte"]),
    ],
    ids=["empty", "magic", "sizes", "short", "long", "html", "floats", "labels", "images", "fewer-labels"],
)
def test_a_damaged_idx_file_is_named(tmp_path, gz, file, content):
    write_idx(tmp_path, gz=gz, **{file: content})
    with pytest.raises(UserError, match=str(tmp_path)):
        idx_images("MNIST", str(tmp_path))


@pytest.mark.parametrize("damage", ["cut", "scrambled", "not zipped"])
def test_a_damaged_gz_file_is_named(tmp_path, damage):
    write_idx(tmp_path, gz=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    content = bytearray(path.read_bytes())
    if damage == "scrambled":
        content[10:20] = b"\xff" * 10
    path.write_bytes({"cut": content[:-20], "scrambled": content, "not zipped": whole}[damage])
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte\.gz cannot be read"):
        idx_images("MNIST", str(tmp_path))


def test_a_missing_idx_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"has no FashionMNIST.*data\.download=true"):
        idx_images("FashionMNIST", str(tmp_path))
    write_idx(tmp_path, t10k_labels_idx1_ubyte=None)
    with pytest.raises(UserError, match="t10k-labels-idx1-ubyte"):
        idx_images("MNIST", str(tmp_path))


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100"])
def test_a_missing_cifar_says_how_to_get_it(tmp_path, name):
    with pytest.raises(UserError, match=rf"{tmp_path} has no complete {name}.*data\.download=true"):
        cifar(name, str(tmp_path))


# folder


# synthetic


def test_synthetic_images_are_the_same_each_time_and_differ_from_each_other():
    first, second = synthetic(40, 12, 4, 3), synthetic(40, 12, 4, 3)
    assert first.training.images.shape == (40, 3, 12, 12)
    assert torch.equal(first.training.images, second.training.images)
    assert torch.equal(first.test.images, second.test.images)
    images = [image.numpy().tobytes() for image in (*first.training.images, *first.test.images)]
    assert len(set(images)) == len(images) == 50


@pytest.mark.parametrize(("resolution", "channels", "classes"), [(8, 1, 10), (32, 3, 10), (5, 3, 2)])
def test_the_structure_of_synthetic_images_can_be_learnt(resolution, channels, classes):
    sets = synthetic(400, resolution, classes, channels)
    training, test = (part.images.flatten(1).float() for part in (sets.training, sets.test))
    labels = torch.from_numpy(sets.training.labels)
    means = torch.stack([training[labels == label].mean(0) for label in range(classes)])
    answers = torch.cdist(test, means).argmin(1).numpy()
    assert (answers == sets.test.labels).mean() > 0.8
