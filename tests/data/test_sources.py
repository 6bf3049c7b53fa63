import gzip
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from crescendo.data.sampler import Draws
from crescendo.data.sources import cifar, class_directories, digits, folder, idx_images, split, synthetic
from crescendo.data.transforms import Transform
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


def write_images(place, count, value=0, size=(6, 5)):
    place.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", size, (value, 0, 0)).save(place / f"{number}.png")


def paths_of(*sets):
    return [path for images in sets for path in images.paths]


def test_a_directory_for_each_class(tmp_path):
    write_images(tmp_path / "dog", 20, 200)
    write_images(tmp_path / "cat" / "of 2020", 20, 100)
    (tmp_path / ".cache").mkdir()
    (tmp_path / "dog" / "readme.txt").write_text("no image")
    sets = folder(str(tmp_path))
    assert sets.class_names == ["cat", "dog"]
    assert sets.validation is None
    assert np.bincount(sets.test.labels).tolist() == [3, 3]
    assert np.bincount(sets.training.labels).tolist() == [17, 17]
    assert len(set(paths_of(sets.training, sets.test))) == 40
    for images in (sets.training, sets.test):
        assert [path.relative_to(tmp_path).parts[0] for path in images.paths] == [
            ["cat", "dog"][label] for label in images.labels
        ]
    assert paths_of(folder(str(tmp_path)).test) == paths_of(sets.test)


def test_an_image_is_read_with_its_label(tmp_path):
    write_images(tmp_path / "dog", 3, 200)
    write_images(tmp_path / "cat", 3, 100, size=(9, 7))
    images = folder(str(tmp_path), test_fraction=0.34).training
    batch = images.batch(Draws(np.arange(len(images.labels)), None, 4), Transform(3))
    assert batch[:, 0].amax((1, 2)).tolist() == [100 if label == 0 else 200 for label in images.labels]


@pytest.mark.parametrize("parts", [("train",), ("train", "test"), ("train", "val"), ("train", "val", "test")])
def test_given_parts_are_kept(tmp_path, parts):
    for part in parts:
        for name in ("a", "b"):
            write_images(tmp_path / part / name, 10)
    sets = folder(str(tmp_path))
    assert sets.class_names == ["a", "b"]
    origin = {
        part: {path.relative_to(tmp_path).parts[0] for path in images.paths}
        for part, images in {"train": sets.training, "val": sets.validation, "test": sets.test}.items()
        if images is not None
    }
    assert origin["train"] == {"train"}
    assert origin["test"] == ({"test"} if "test" in parts else {"train"})
    assert origin.get("val") == ({"val"} if "val" in parts else None)
    assert not set(sets.training.paths) & set(sets.test.paths)
    assert len(paths_of(sets.training, sets.test)) == (40 if "test" in parts else 20)


def test_an_empty_class_is_named(tmp_path):
    write_images(tmp_path / "dog", 2)
    write_images(tmp_path / "cat", 0)
    with pytest.raises(UserError, match="class 'cat' is empty"):
        folder(str(tmp_path))


def test_parts_of_other_classes_are_refused(tmp_path):
    for place in ("train/a", "train/b", "test/a", "test/c"):
        write_images(tmp_path / place, 2)
    with pytest.raises(UserError, match="differ in classes: b, c"):
        folder(str(tmp_path))


@pytest.mark.parametrize("classes", [0, 1])
def test_fewer_than_two_classes_are_refused(tmp_path, classes):
    if classes:
        write_images(tmp_path / "dog", 2)
    with pytest.raises(UserError, match=f"holds {classes} class directories: at least two"):
        class_directories(str(tmp_path))


def test_a_missing_directory_is_named_with_its_neighbours(tmp_path):
    (tmp_path / "flowers").mkdir()
    with pytest.raises(UserError, match=r"flowrs is not a directory.*Did you mean flowers\?"):
        folder(str(tmp_path / "flowrs"))


def test_macos_shadow_files_are_no_images(tmp_path):
    for name in ("a", "b"):
        write_images(tmp_path / name, 4)
        (tmp_path / name / "._0.png").write_bytes(b"\0\x05\x16\x07")
        (tmp_path / name / "album.png").mkdir()
    sets = folder(str(tmp_path), test_fraction=0.25)
    assert {path.name for path in paths_of(sets.training, sets.test)} == {"0.png", "1.png", "2.png", "3.png"}


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
