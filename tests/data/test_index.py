"""The index of an image directory: what it says, and when it is made again."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from crescendo.data import listing
from crescendo.data.index import index_places, load_index, read_index, refresh, save_index
from crescendo.data.listing import FileIndex, Names, index_files
from crescendo.errors import UserError


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    for name, size in (
        ("a/1.png", (30, 20)),
        ("a/2.jpg", (7, 9)),
        ("b/deep/3.png", (5, 4)),
        ("b/4.png", (1, 2)),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(root / name)
    (root / "b" / "5.png").write_bytes(b"no image")
    (root / "b" / "notes.txt").write_text("no image")
    (root / ".hidden").mkdir()
    Image.new("RGB", (3, 3)).save(root / ".hidden" / "6.png")
    return root


@pytest.fixture
def headers_read(monkeypatch):
    """The files whose headers were read."""
    read, header = [], listing._header

    def watched(path):
        read.append(path.name)
        return header(path)

    monkeypatch.setattr(listing, "_header", watched)
    return read


def contents(index):
    return {
        index.name(place): (int(index.widths[place]), int(index.heights[place]))
        for place in range(len(index))
    }


EXPECTED = {
    "a/1.png": (30, 20),
    "a/2.jpg": (7, 9),
    "b/4.png": (1, 2),
    "b/5.png": (0, 0),
    "b/deep/3.png": (5, 4),
}


def test_names_and_sizes_of_images_and_why_one_has_none(photos):
    index = index_files(photos)
    assert contents(index) == EXPECTED
    assert {index.name(place): reason for place, reason in index.faults.items()} == {
        "b/5.png": "it is not an image in a format that can be read"
    }
    assert index.path(0) == photos / "a" / "1.png"


def test_an_index_is_the_same_from_disk_and_reads_no_header_again(photos, headers_read):
    first = load_index(photos)
    assert len(headers_read) == 5
    second = load_index(photos)
    assert len(headers_read) == 5
    assert contents(second) == contents(first) == EXPECTED
    assert second.faults == first.faults
    assert second.digest() == first.digest()


def test_a_new_file_is_noticed_and_it_alone_is_read(photos, headers_read):
    load_index(photos)
    headers_read.clear()
    Image.new("RGB", (11, 12)).save(photos / "b" / "deep" / "7.png")
    assert contents(load_index(photos)) == EXPECTED | {"b/deep/7.png": (11, 12)}
    assert sorted(headers_read) == ["5.png", "7.png"]  # what was faulty may have been mended


def test_a_deleted_and_a_renamed_file_are_noticed(photos):
    load_index(photos)
    (photos / "a" / "1.png").unlink()
    (photos / "b" / "4.png").rename(photos / "b" / "8.png")
    found = contents(load_index(photos))
    assert "a/1.png" not in found
    assert found["b/8.png"] == (1, 2)


def test_a_file_that_was_replaced_in_place_is_noticed_by_refresh(photos):
    load_index(photos)
    Image.new("RGB", (40, 50)).save(photos / "a" / "2.jpg")
    assert contents(refresh(photos, read_index(photos)))["a/2.jpg"] == (40, 50)


def test_the_size_of_a_rotated_photograph_is_the_upright_one(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "1.jpg", exif=exif)
    Image.new("RGB", (30, 20)).save(tmp_path / "2.tif", exif=exif)
    assert contents(index_files(tmp_path)) == {"1.jpg": (20, 30), "2.tif": (20, 30)}


def test_a_directory_that_cannot_be_written_is_indexed_in_the_cache(
    photos, monkeypatch, tmp_path, headers_read
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (photos / ".crescendo").write_text("a file, so that no directory can be made here")
    load_index(photos)
    assert index_places(photos)[1].is_file()
    headers_read.clear()
    assert contents(load_index(photos)) == EXPECTED
    assert headers_read == []


@pytest.mark.parametrize("kept", [0, 100, -100])
def test_a_damaged_index_is_made_again(photos, kept):
    load_index(photos)
    path = index_places(photos)[0]
    path.write_bytes(path.read_bytes()[:kept])
    assert contents(load_index(photos)) == EXPECTED


def test_a_circle_of_links_ends(photos):
    (photos / "a" / "again").symlink_to(photos)
    assert contents(index_files(photos)).keys() == EXPECTED.keys()


def test_a_link_to_nothing_is_a_fault(photos):
    (photos / "a" / "lost.png").symlink_to(photos / "nowhere.png")
    index = index_files(photos)
    assert "it is not there" in index.faults.values()


def test_many_files_are_read_by_several_processes(photos, monkeypatch):
    monkeypatch.setattr(listing, "FEW", 2)
    assert contents(index_files(photos)) == EXPECTED


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere is not a directory"):
        load_index(tmp_path / "nowhere")


def test_names_survive_any_bytes():
    names = ["a", "", "Übung 1.png", os.fsdecode(b"\xff\xfe.jpg"), "1"]
    assert Names.of(names).all() == names
    assert [Names.of(names).name(place) for place in range(5)] == names
    assert Names.of([]).all() == []


def test_an_index_of_1_300_000_images_loads_in_less_than_3_seconds(tmp_path):
    count, classes = 1_300_000, 1000
    root = tmp_path / "photos"
    (root / ".crescendo").mkdir(parents=True)
    for label in range(classes):
        (root / f"n{label:08}").mkdir()
    names = [f"n{place:08}_{place}.JPEG" for place in range(count)]
    directories = [".", *(f"n{label:08}" for label in range(classes))]
    index = FileIndex(
        root,
        Names.of(directories),
        np.array([os.stat(root / name).st_mtime_ns for name in directories]),
        np.repeat(np.arange(1, classes + 1, dtype=np.int32), count // classes),
        Names.of(names),
        np.full(count, 500, np.int32),
        np.full(count, 375, np.int32),
        np.full(count, 110_000),
        np.full(count, time.time_ns()),
        {},
    )
    save_index(index)
    program = (
        "import json, sys, time; from crescendo.data.folders import folder; start = time.process_time()\n"
        "sets = folder(sys.argv[1]); seconds = time.process_time() - start\n"
        "print(json.dumps([seconds, len(sets.training.labels), sets.training.name(0)]))"
    )
    process = subprocess.run(
        [sys.executable, "-c", program, str(root)], capture_output=True, text=True, check=True
    )
    seconds, images, first = json.loads(process.stdout)
    assert (images, first) == (1_105_000, str(root / "n00000000" / names[0]))
    assert seconds < 3


def test_a_directory_that_is_made_while_headers_are_read_is_noticed(image_folder, monkeypatch):
    def late(paths, progress):
        (image_folder / "late").mkdir(exist_ok=True)
        return headers(paths, progress)

    headers = listing._headers
    monkeypatch.setattr(listing, "_headers", late)
    load_index(image_folder)
    saved = read_index(image_folder)
    assert saved is not None
    assert not saved.is_current()
    assert load_index(image_folder).is_current()


def test_a_directory_that_cannot_be_listed_is_named(image_folder, monkeypatch):
    def refused(place):
        if os.fspath(place).endswith("grey"):
            raise PermissionError(13, "Permission denied", place)
        return scan(place)

    scan = os.scandir
    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(UserError, match=r"grey cannot be listed: Permission denied"):
        load_index(image_folder)
