"""Real files with real faults, and what becomes of the run that meets them."""

import csv
import io
import json
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from commands import only_run, train
from PIL import Image

from crescendo.curriculum.schedule import Curriculum, Ramp
from crescendo.data import Augmentation, ImageData, Transform
from crescendo.data.faults import Fault, Faults
from crescendo.data.folders import folder
from crescendo.data.sampler import Draws
from crescendo.errors import UserError


def jpeg(value=100):
    noise = np.random.default_rng(value).integers(0, 60, (24, 32, 3), dtype=np.uint8) + np.uint8(value)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "jpeg")
    return buffer.getvalue()


def bomb():
    """A PNG that claims 30,000 x 30,000 px."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "png")
    content = bytearray(buffer.getvalue())
    content[16:24] = struct.pack(">II", 30_000, 30_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


def float_tiff():
    buffer = io.BytesIO()
    Image.fromarray(np.ones((4, 4), np.float32)).save(buffer, "tiff")
    return buffer.getvalue()


# content, why it cannot be read, and whether its header tells
FAULTS = {
    "truncated.jpg": (jpeg()[:700], "damaged", False),
    "empty.jpg": (b"", "it is empty", True),
    "notes.png": (b"these are notes", "not an image", True),
    "bomb.png": (bomb(), "too large to be decoded safely", True),
    "float.tif": (float_tiff(), "pixels of 32 bits", True),
}
everyone = pytest.mark.parametrize("name", FAULTS)


@pytest.fixture
def root(tmp_path):
    place = tmp_path / "photos"
    for part, count in (("train", 10), ("val", 4), ("test", 4)):
        for label, value in (("dark", 20), ("light", 180)):
            (place / part / label).mkdir(parents=True)
            for number in range(count):
                (place / part / label / f"{number}.jpg").write_bytes(jpeg(value + number))
    return place


def make(root, *, on_error="skip", epochs=3, workers=0, batch_size=10, **settings):
    sets = folder(str(root))
    transform = Transform(3, augmentation=Augmentation(crop_area=(0.3, 1.0)), seed=1)
    return ImageData(
        sets,
        transform,
        Curriculum(epochs, Ramp(8, 8)),
        1,
        batch_size=batch_size,
        eval_batch_size=5,
        num_workers=workers,
        on_error=on_error,
        **settings,
    )


def rows_of(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def batches(data, loader, epochs=1):
    found = []
    for epoch in range(epochs):
        loader.batch_sampler.sampler.set_epoch(epoch)
        found += list(loader)
    return found


@everyone
def test_a_fault_ends_the_run_with_file_and_reason(root, name):
    content, reason, told_by_header = FAULTS[name]
    (root / "train" / "dark" / name).write_bytes(content)
    message = rf"{name}.*{reason}.*data\.on_error=skip"
    if told_by_header:
        with pytest.raises(UserError, match=message):
            make(root, on_error="raise")
    else:
        data = make(root, on_error="raise", batch_size=21)
        with pytest.raises(UserError, match=message.replace("data", "It is image 10.*data", 1)):
            batches(data, data.train_dataloader())


@pytest.mark.parametrize(("name", "workers"), [*((name, 0) for name in FAULTS), ("truncated.jpg", 2)])
def test_training_takes_another_image_instead_and_lists_the_fault(root, tmp_path, name, workers):
    content, reason, _ = FAULTS[name]
    (root / "train" / "dark" / name).write_bytes(content)
    data = make(root, workers=workers, batch_size=21)
    data.faults.keep_in(tmp_path / "faulty_images.csv")
    (faulty,) = (index for index in range(21) if name in data.training.images.name(index))
    for epoch, batch in enumerate(batches(data, data.train_dataloader(), epochs=3)):
        order = data.training_sampler().batches(epoch)[0]
        place = order.tolist().index(faulty)
        assert batch.indices.tolist()[:place] == order.tolist()[:place]
        assert batch.indices.tolist()[place + 1 :] == order.tolist()[place + 1 :]
        instead = batch.indices[place].item()
        assert instead != faulty
        alone = Draws(np.array([instead]), epoch, 8)
        assert torch.equal(
            batch.images[place : place + 1], data.training.images.batch(alone, data.training.transform)
        )
        assert batch.labels[place] == data.training.images.labels[instead]
    (row,) = rows_of(tmp_path / "faulty_images.csv")
    assert row["name"].endswith(f"train/dark/{name}")
    assert reason in row["reason"]
    assert len(data.faults) == 1


@everyone
def test_evaluation_leaves_it_out(root, name):
    (root / "test" / "dark" / name).write_bytes(FAULTS[name][0])
    data = make(root)
    seen = torch.cat([batch.indices for batch in data.test_dataloader()]).tolist()
    names = [data.test.images.name(index) for index in seen]
    assert len(names) == 8
    assert not any(name in one for one in names)
    assert len(data.faults) == 1


def test_a_batch_of_which_nothing_is_left_is_not_there(root):
    for number in range(4):
        (root / "test" / "dark" / f"{number}.jpg").write_bytes(jpeg()[:500])
    (root / "test" / "dark" / "5.jpg").write_bytes(b"")
    data = make(root)  # batches of 5
    assert [batch.labels.tolist() for batch in data.test_dataloader()] == [[1, 1, 1, 1]]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_is_deleted_during_training(root, workers):
    data = make(root, workers=workers)
    loader = data.train_dataloader()
    assert len(batches(data, loader)) == 2
    (root / "train" / "light" / "3.jpg").unlink()
    (root / "train" / "light" / "4.jpg").write_bytes(jpeg()[:700])
    assert all(len(batch.labels) == 10 for batch in batches(data, loader, epochs=3))
    assert len(data.faults) == 2
    data = make(root, on_error="raise", workers=workers)
    (root / "train" / "light" / "5.jpg").unlink()
    with pytest.raises(UserError, match=r"(5\.jpg: it is not there|4\.jpg: its content is damaged)"):
        batches(data, data.train_dataloader(), epochs=3)


def test_a_file_that_cannot_be_opened(root):
    """A link to itself: permissions do not keep everybody out."""
    (root / "train" / "dark" / "loop.jpg").symlink_to("loop.jpg")
    with pytest.raises(UserError, match=r"loop\.jpg cannot be used: it cannot be read \(Too many levels"):
        make(root, on_error="raise")


def test_a_file_of_another_size_than_the_index_has(root):
    data = make(root, on_error="raise")
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9)).save(buffer, "png")
    (root / "train" / "dark" / "1.jpg").write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match=r"1\.jpg: it has 9x9 px, and had 32x24"):
        batches(data, data.train_dataloader())


def test_more_faults_than_allowed_end_the_run(root, tmp_path):
    for number in range(3):
        (root / "train" / "dark" / f"{number}.jpg").write_bytes(jpeg()[:500])
    data = make(root, max_errors=2)
    data.faults.keep_in(tmp_path / "list.csv")
    with pytest.raises(
        UserError, match=r"3 images cannot be read, listed in .*list\.csv: more than data\.max_errors=2"
    ):
        batches(data, data.train_dataloader())
    resumed = make(root, max_errors=2)
    resumed.faults.keep_in(tmp_path / "list.csv")
    assert len(resumed.faults) == 3


def test_a_directory_that_is_gone_ends_the_run(root):
    data = make(root, max_errors=15)
    for file in root.rglob("*.jpg"):
        file.unlink()
    with pytest.raises(UserError, match="16 images cannot be read"):
        batches(data, data.train_dataloader(), epochs=3)


def test_from_the_command_line(root, tmp_path):
    (root / "train" / "dark" / "3.jpg").write_bytes(jpeg()[:700])
    (root / "test" / "light" / "1.jpg").write_bytes(jpeg()[:700])
    overrides = (
        "data=folder",
        f"data.root={root}",
        "data.num_workers=1",
        "data.batch_size=10",
        "model=lenet5_modern",
        "curriculum=constant",
        "curriculum.resolution={start: 32, end: 32}",
        "trainer=cpu",
        "trainer.max_epochs=2",
        "logger=csv",
    )
    ended = train(*overrides, cwd=tmp_path)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert "3.jpg: its content is damaged" in ended.stderr
    assert "data.on_error=skip" in ended.stderr
    finished = train(*overrides, "data.on_error=skip", f"runs_dir={tmp_path / 'skip'}", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    run = only_run(tmp_path / "skip")
    rows = rows_of(run / "faulty_images.csv")
    assert sorted(row["name"].split("photos/")[1] for row in rows) == ["test/light/1.jpg", "train/dark/3.jpg"]
    matrix = rows_of(run / "confusion_matrix.csv")
    assert sum(int(cell) for row in matrix for cell in list(row.values())[1:]) == 7
    assert json.loads((run / "summary.json").read_text())["faulty_images"] == 2


def test_a_name_of_any_bytes_is_listed_once(tmp_path):
    faults = Faults("skip", 5)
    faults.keep_in(tmp_path / "faulty_images.csv")
    name = os.fsdecode(b"a/\xff.jpg")
    for _ in range(2):
        faults.meet([Fault(name, 3, "it is empty", None)])
    assert len(faults) == 1
    assert (tmp_path / "faulty_images.csv").read_bytes().splitlines()[1:] == [b"a/\xff.jpg,3,it is empty,"]
