"""Packs: which level a draw reads, what it shows, and what becomes of unfinished, damaged and stale ones."""

import io
import json
import logging
import shutil

import numpy as np
import pytest
import torch
from commands import crescendo, only_run, train
from PIL import Image

from crescendo.data import Augmentation, Transform, jpeg
from crescendo.data.decoding import ImageError, read_region
from crescendo.data.folders import folder
from crescendo.data.packing import build_pack, estimate, make_copies, plan_pack, write_shard
from crescendo.data.packs import ORIGINAL, Pack, copy_size, packed
from crescendo.data.sampler import Draws
from crescendo.errors import UserError


def photograph(number, width=240, height=180):
    """Smooth, each of its own."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    waves = (np.sin(9 * x + number * y), np.cos(7 * y - 3 * x * x + number), np.sin((11 + number) * x * y))
    return Image.fromarray(np.stack([127 + 100 * wave for wave in waves], 2).astype(np.uint8))


@pytest.fixture
def source(tmp_path):
    root = tmp_path / "photos"
    for label, name in enumerate(("a", "b")):
        (root / name).mkdir(parents=True)
        for number in range(6):
            size = ((240, 180), (90, 130), (60, 50))[number % 3]
            photograph(number + 10 * label, *size).save(root / name / f"{number}.jpg", quality=95)
    return root


def make(source, target, levels=(64, 96), *, quality=95, originals=True):
    build_pack(plan_pack(source, levels, quality, originals), target, workers=1)
    return Pack.open(target)


def place_of(pack, name):
    return next(place for place in range(len(pack.index)) if pack.index.name(place) == name)


# a/0.jpg has 240x180 px, a/1.jpg 90x130, a/2.jpg 60x50; copies have short sides of 64 and 96 px
@pytest.mark.parametrize(
    ("name", "box", "size", "tolerance", "level"),
    [
        ("a/0.jpg", (0, 0, 180, 180), (64, 64), 1.0, 64),
        ("a/0.jpg", (0, 0, 180, 180), (65, 65), 1.0, 96),
        ("a/0.jpg", (0, 0, 180, 180), (96, 96), 1.0, 96),
        ("a/0.jpg", (0, 0, 180, 180), (97, 97), 1.0, ORIGINAL),
        ("a/0.jpg", (0, 0, 90, 90), (32, 32), 1.0, 64),
        ("a/0.jpg", (0, 0, 90, 45), (32, 32), 1.0, ORIGINAL),
        ("a/0.jpg", (0, 0, 180, 180), (85, 85), 0.75, 64),
        ("a/0.jpg", (0, 0, 180, 180), (86, 86), 0.75, 96),
        ("a/1.jpg", (0, 0, 90, 90), (64, 64), 1.0, 64),
        ("a/1.jpg", (0, 0, 90, 90), (65, 65), 1.0, ORIGINAL),
        ("a/2.jpg", (0, 0, 50, 50), (8, 8), 1.0, ORIGINAL),
    ],
)
def test_the_smallest_level_with_enough_pixels_is_read(source, tmp_path, name, box, size, tolerance, level):
    pack = make(source, tmp_path / "pack")
    assert pack.level_for(place_of(pack, name), box, size, tolerance) == level


def test_without_originals_the_largest_copy_has_to_do(source, tmp_path):
    pack = make(source, tmp_path / "pack", originals=False)
    large, middle, small = (place_of(pack, f"a/{number}.jpg") for number in range(3))
    assert pack.level_for(large, (0, 0, 180, 180), (160, 160), 1.0) == 96
    assert pack.level_for(middle, (0, 0, 90, 90), (80, 80), 1.0) == 96  # a copy in its own 90x130 px
    assert pack.level_for(small, (0, 0, 50, 50), (50, 50), 1.0) == 64
    assert not (tmp_path / "pack" / "original").exists()
    with Image.open(io.BytesIO(pack.content(96, middle))) as copy:
        assert copy.size == (90, 130)


@pytest.mark.parametrize("crop", [(0, 0, 180, 180), (31, 17, 130, 110), (90, 60, 140, 101)])
@pytest.mark.parametrize("in_channels", [1, 3])
def test_a_region_of_a_copy_is_that_of_the_original(source, tmp_path, crop, in_channels):
    pack = make(source, tmp_path / "pack")
    content = (source / "a" / "0.jpg").read_bytes()
    size = (crop[2] // 3, crop[3] // 3)
    place = place_of(pack, "a/0.jpg")
    assert pack.level_for(place, crop, size, 1.0) == 64
    region = np.asarray(pack.region(place, crop, size, in_channels)).astype(float)
    expected = np.asarray(read_region(content, crop, size, in_channels, (240, 180)))
    aside = (crop[0] + 2, *crop[1:])  # two thirds of a pixel of the result
    shifted = np.asarray(read_region(content, aside, size, in_channels, (240, 180)))
    assert np.abs(region - expected).mean() < 1.3
    assert np.abs(region - shifted).mean() > 2 * np.abs(region - expected).mean()


def test_an_original_is_the_file_itself(source, tmp_path):
    pack = make(source, tmp_path / "pack")
    for name in ("a/0.jpg", "b/5.jpg"):
        assert pack.content(ORIGINAL, place_of(pack, name)) == (source / name).read_bytes()


def test_a_pack_has_the_splits_labels_and_boxes_of_its_source(source, tmp_path, monkeypatch):
    monkeypatch.setattr(jpeg, "HAS_SIMPLEJPEG", False)  # whose noise in training is beside the point
    make(source, tmp_path / "pack")
    files, copies = folder(str(source)), packed(str(tmp_path / "pack"))
    transform = Transform(3, augmentation=Augmentation(flip=True, crop_area=(0.3, 1.0)), seed=3)
    assert copies.class_names == files.class_names == ["a", "b"]
    for of_files, of_copies in ((files.training, copies.training), (files.test, copies.test)):
        assert of_copies.labels.tolist() == of_files.labels.tolist()
        draws = Draws(np.arange(len(of_files.labels)), 1, 24)
        expected, found = (images.batch(draws, transform).float() for images in (of_files, of_copies))
        assert (expected - found).abs().mean() < 1.0


def test_parts_are_kept(tmp_path):
    for part, count in (("train", 3), ("val", 2), ("test", 1)):
        for name in ("a", "b"):
            (tmp_path / "photos" / part / name).mkdir(parents=True)
            for number in range(count):
                photograph(number, 100, 80).save(tmp_path / "photos" / part / name / f"{number}.jpg")
    make(tmp_path / "photos", tmp_path / "pack")
    sets = packed(str(tmp_path / "pack"))
    assert [len(part.labels) for part in (sets.training, sets.validation, sets.test)] == [6, 4, 2]


def test_grey_transparent_and_turned_images_are_copied_as_they_look(tmp_path):
    root = tmp_path / "photos"
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        photograph(1).save(root / name / "1.jpg")
    photograph(2).convert("L").save(root / "a" / "grey.png")
    Image.new("RGBA", (100, 100), (0, 0, 0, 0)).save(root / "a" / "transparent.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph(3).save(root / "a" / "turned.jpg", exif=exif)
    pack = make(root, tmp_path / "pack", originals=False)
    with Image.open(io.BytesIO(pack.content(64, place_of(pack, "a/grey.png")))) as copy:
        assert (copy.mode, copy.size) == ("L", (85, 64))
    assert (np.asarray(pack.region(place_of(pack, "a/grey.png"), (0, 0, 9, 9), (3, 3), 3)).shape) == (3, 3, 3)
    white = pack.region(place_of(pack, "a/transparent.png"), (0, 0, 100, 100), (8, 8), 3)
    assert np.asarray(white).min() >= 254
    with Image.open(io.BytesIO(pack.content(64, place_of(pack, "a/turned.jpg")))) as copy:
        assert copy.size == (64, 85)


def test_copies_have_the_sides_of_their_level():
    assert copy_size((500, 375), 160) == (213, 160)
    assert copy_size((375, 500), 160) == (160, 213)
    assert copy_size((90, 130), 160) == (90, 130)
    assert copy_size((30_000, 10), 5) == (15_000, 5)


def test_a_build_goes_on_where_it_was_interrupted(source, tmp_path, monkeypatch):
    monkeypatch.setattr("crescendo.data.packing.SHARD_IMAGES", 5)
    target, whole = tmp_path / "pack", tmp_path / "whole"
    make(source, whole)
    plan = plan_pack(source, (64, 96), 95, True)
    target.mkdir()
    (target / "records").mkdir()
    shutil.copy(whole / "pack.json", target / "pack.building")
    write_shard(plan, target, 1)
    before = (target / "level-64" / "00001.shard").stat().st_mtime_ns
    with pytest.raises(UserError, match="is an unfinished pack: give the same crescendo pack command again"):
        Pack.open(target)
    with pytest.raises(UserError, match="unfinished pack of other files, levels or quality"):
        build_pack(plan_pack(source, (64,), 95, True), target)
    pack = make(source, target)
    assert (target / "level-64" / "00001.shard").stat().st_mtime_ns == before
    for level in (64, 96, ORIGINAL):
        for shard in range(3):
            name = f"{f'level-{level}' if level else 'original'}/{shard:05}.shard"
            assert (target / name).read_bytes() == (whole / name).read_bytes()
    assert sorted(path.name for path in target.iterdir()) == sorted(path.name for path in whole.iterdir())
    assert len(pack.index) == 12


def test_what_is_there_is_not_written_over(source, tmp_path):
    make(source, tmp_path / "pack")
    with pytest.raises(UserError, match="is a finished pack of these files: nothing is done"):
        make(source, tmp_path / "pack")
    with pytest.raises(UserError, match="is a finished pack of other files, levels or quality"):
        make(source, tmp_path / "pack", levels=(32,))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="mine is not empty"):
        make(source, tmp_path / "mine")


def test_a_damaged_shard_is_named(source, tmp_path):
    pack = make(source, tmp_path / "pack")
    shard = tmp_path / "pack" / "level-64" / "00000.shard"
    place = place_of(pack, "a/1.jpg")
    content = bytearray(shard.read_bytes())
    content[int(pack.extents[64].offsets[place]) + 20] ^= 1
    shard.write_bytes(content)
    pack = Pack.open(tmp_path / "pack")
    with pytest.raises(ImageError, match=r"shard .*level-64/00000\.shard is damaged at byte"):
        pack.region(place, (0, 0, 90, 90), (32, 32), 3)
    pack.region(place_of(pack, "a/0.jpg"), (0, 0, 90, 90), (32, 32), 3)
    shard.write_bytes(content[:-1])
    with pytest.raises(UserError, match=r"level-64/00000\.shard is damaged: it has .* bytes, and"):
        Pack.open(tmp_path / "pack")
    shard.unlink()
    with pytest.raises(UserError, match=r"level-64/00000\.shard is damaged: it is not there"):
        Pack.open(tmp_path / "pack")


def test_a_shard_that_goes_while_it_is_used_is_named(source, tmp_path):
    pack = make(source, tmp_path / "pack")
    (tmp_path / "pack" / "level-64" / "00000.shard").unlink()
    with pytest.raises(ImageError, match=r"level-64/00000\.shard cannot be read"):
        pack.region(place_of(pack, "a/0.jpg"), (0, 0, 90, 90), (32, 32), 3)


@pytest.mark.parametrize("kept", [0, 200, -200])
def test_a_damaged_index_is_named(source, tmp_path, kept):
    make(source, tmp_path / "pack")
    index = tmp_path / "pack" / "index.npz"
    index.write_bytes(index.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"index\.npz cannot be read.*Make the pack anew"):
        Pack.open(tmp_path / "pack")


def test_a_pack_says_when_it_is_stale(source, tmp_path, caplog):
    make(source, tmp_path / "pack")
    with caplog.at_level(logging.WARNING):
        packed(str(tmp_path / "pack"))
        assert not caplog.records
        photograph(99).save(source / "a" / "new.jpg")
        packed(str(tmp_path / "pack"))
    assert "is stale" in caplog.text
    shutil.rmtree(source)
    caplog.clear()
    packed(str(tmp_path / "pack"))  # a pack does not need its source
    assert not caplog.records


def test_a_file_that_was_written_over_is_packed_as_it_is_now(source, tmp_path):
    folder(str(source))  # an index is there
    photograph(2, 240, 100).save(source / "a" / "0.jpg", quality=95)
    pack = make(source, tmp_path / "pack")
    place = place_of(pack, "a/0.jpg")
    assert (pack.index.widths[place], pack.index.heights[place]) == (240, 100)
    box, size = (30, 10, 90, 90), (32, 32)
    assert pack.level_for(place, box, size, 1.0) == 64
    expected = read_region((source / "a" / "0.jpg").read_bytes(), box, size, 3, (240, 100)).astype(float)
    assert np.abs(pack.region(place, box, size, 3) - expected).mean() < 2


def test_a_file_that_changes_while_it_is_packed_is_left_out(source, tmp_path):
    plan = plan_pack(source, (64, 96), 95, True)
    photograph(2, 240, 100).save(source / "a" / "0.jpg", quality=95)
    assert build_pack(plan, tmp_path / "pack", workers=1) == ["a/0.jpg: it has 240x100 px, and had 240x180"]


@pytest.mark.parametrize("originals", [True, False])
def test_what_is_too_wide_for_a_jpeg_stops_no_pack(source, tmp_path, originals):
    Image.new("RGB", (70_000, 90), "orange").save(source / "a" / "wide.png")
    plan = plan_pack(source, (64, 88), 95, originals)
    faults = build_pack(plan, tmp_path / "pack", workers=1)
    if originals:
        assert faults == []
        pack = Pack.open(tmp_path / "pack")
        assert pack.level_for(place_of(pack, "a/wide.png"), (0, 0, 90, 90), (88, 88), 1.0) == ORIGINAL
    else:
        assert "a/wide.png" not in "".join(faults)  # 49,778 px at 64 px


def test_what_is_too_wide_at_every_level_is_told(source, tmp_path):
    Image.new("RGB", (70_000, 60), "orange").save(source / "a" / "wide.png")
    plan = plan_pack(source, (64, 80), 95, False)
    faults = build_pack(plan, tmp_path / "pack", workers=1)
    assert faults == ["a/wide.png: a side of 70,000 px is more than the 65,500 of a JPEG"]


def test_the_estimate_is_near(source, tmp_path):
    plan = plan_pack(source, (64, 96), 95, True)
    estimated = estimate(plan)
    make(source, tmp_path / "pack")
    for level, total in estimated.items():
        place = tmp_path / "pack" / (f"level-{level}" if level else "original")
        assert sum(path.stat().st_size for path in place.iterdir()) == total  # all 12 images are the sample


def test_faulty_images_are_left_out_and_told(source, tmp_path):
    (source / "a" / "broken.jpg").write_bytes((source / "a" / "0.jpg").read_bytes()[:3000])
    (source / "b" / "empty.png").write_bytes(b"")
    plan = plan_pack(source, (64, 96), 95, True)
    faults = build_pack(plan, tmp_path / "pack", workers=1)
    assert [fault.split(":")[0] for fault in faults] == ["a/broken.jpg", "b/empty.png"]
    sets = packed(str(tmp_path / "pack"))
    known = {
        images.name(index): reason
        for images in (sets.training, sets.test)
        for index, reason in images.faults().items()
    }
    assert sorted(name.split(":")[1] for name in known) == ["a/broken.jpg", "b/empty.png"]
    assert "it is empty" in known.values()


def test_an_estimate_goes_around_what_cannot_be_read(source, tmp_path):
    whole = estimate(plan_pack(source, (64, 96), 95, True))
    for name in ("a/broken.jpg", "b/empty.png"):
        (source / name).write_bytes((source / "a" / "0.jpg").read_bytes()[:3000] if "broken" in name else b"")
    faulty = estimate(plan_pack(source, (64, 96), 95, True))
    assert faulty[64] == pytest.approx(whole[64] * 14 / 12, rel=0.01)
    pack = crescendo("pack", str(source), "pack", "--levels", "64", "--workers", "1", cwd=tmp_path)
    assert pack.returncode == 0, pack.stderr
    assert "2 of 14 images cannot be read" in pack.stdout


def test_levels_that_make_no_sense_are_refused(source, tmp_path):
    for levels in ((), (96, 64), (64, 64), (0, 64)):
        with pytest.raises(UserError, match="must be rising short sides"):
            plan_pack(source, levels, 90, True)


def test_copies_of_an_image_by_level(source):
    plan = plan_pack(source, (64, 96), 95, True)
    names = [plan.files.name(place) for place in range(len(plan.files))]
    assert list(make_copies(plan, names.index("a/0.jpg"))) == [64, 96, ORIGINAL]
    assert list(make_copies(plan, names.index("a/1.jpg"))) == [64, ORIGINAL]
    assert list(make_copies(plan, names.index("a/2.jpg"))) == [ORIGINAL]


def test_from_the_command_line(source, tmp_path):
    result = crescendo("pack", str(source), "pack", "--levels", "64,96", "--workers", "2", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "python train.py data=packed data.root=pack" in result.stdout
    checked = crescendo("check", "pack", "--json", cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr
    findings = json.loads(checked.stdout)
    assert findings["classes"] == {"train": {"a": 6, "b": 6}}
    assert (findings["faults"], findings["stale"]) == ({}, False)
    trained = train(
        *("data=packed", "data.root=pack", "data.tolerance=0.75", "data.num_workers=1", "data.batch_size=4"),
        *("model=lenet5_modern", "curriculum.stages=2", "trainer=cpu", "trainer.max_epochs=2", "logger=csv"),
        *(
            "curriculum.resolution={start: 28, end: 32}",
            "data.val_fraction=0.25",
            "data.source.test_fraction=0.34",
        ),
        cwd=tmp_path,
    )
    assert trained.returncode == 0, trained.stderr
    again = crescendo("evaluate", str(only_run(tmp_path)), cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    wrong = train("data=packed", f"data.root={source}", "trainer=cpu", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "is not a pack: make one by crescendo pack" in wrong.stderr


def test_a_batch_from_a_pack_is_a_function_of_its_draws(source, tmp_path):
    make(source, tmp_path / "pack")
    images = packed(str(tmp_path / "pack")).training
    transform = Transform(3, augmentation=Augmentation(flip=True, crop_area=(0.1, 1.0)), seed=3)
    everything = images.batch(Draws(np.arange(10), 2, 32), transform)
    alone = [images.batch(Draws(np.array([index]), 2, 32), transform) for index in range(10)]
    assert torch.equal(torch.cat(alone), everything)
