"""Directories of image files as labelled images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crescendo.data.folders import class_directories, folder
from crescendo.data.images import GivenFiles
from crescendo.data.sampler import Draws
from crescendo.data.transforms import Transform
from crescendo.errors import UserError


def write_images(place, count, value=0, size=(6, 5)):
    place.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", size, (value, 0, 0)).save(place / f"{number}.png")


def paths_of(*sets):
    return [Path(images.name(index)) for images in sets for index in range(len(images.labels))]


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
        assert [path.relative_to(tmp_path).parts[0] for path in paths_of(images)] == [
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
        part: {path.relative_to(tmp_path).parts[0] for path in paths_of(images)}
        for part, images in {"train": sets.training, "val": sets.validation, "test": sets.test}.items()
        if images is not None
    }
    assert origin["train"] == {"train"}
    assert origin["test"] == ({"test"} if "test" in parts else {"train"})
    assert origin.get("val") == ({"val"} if "val" in parts else None)
    assert not set(paths_of(sets.training)) & set(paths_of(sets.test))
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


def test_given_files_are_read_in_order_by_any_number_of_workers(image_folder):
    paths = sorted(image_folder.rglob("*.jpg"))
    (whole,) = GivenFiles(paths, 3).batches(Transform(3), 16, size=100)
    assert whole.shape == (18, 3, 16, 16)
    for num_workers in (0, 2):
        parts = list(GivenFiles(paths, 3).batches(Transform(3), 16, 5, num_workers))
        assert [len(part) for part in parts] == [5, 5, 5, 3]
        assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_given_file_that_is_no_image_is_named(image_folder, num_workers):
    broken = image_folder / "dark" / "broken.jpg"
    broken.write_bytes(b"no image")
    paths = [*sorted(image_folder.rglob("*.png")), broken]
    with pytest.raises(UserError, match=r"broken\.jpg: it is not an image in a format that can be read"):
        list(GivenFiles(paths, 3).batches(Transform(3), 16, 5, num_workers))
