"""`crescendo check`: what it finds in a directory and in a pack."""

import io
import json
import os

import pytest
from commands import crescendo
from PIL import Image
from rich.console import Console

from crescendo.data.checking import check_directory, check_pack, show_findings
from crescendo.data.packing import build_pack, plan_pack


def noise(number, size=(40, 30), mode="RGB"):
    return Image.effect_noise(size, 50 + number).convert(mode)


@pytest.fixture
def root(tmp_path):
    place = tmp_path / "photos"
    for part, count in (("train", 3), ("test", 2)):
        for label in ("cat", "dog"):
            (place / part / label).mkdir(parents=True)
            for number in range(count):
                noise(number, (40 + number, 30)).save(place / part / label / f"{number}.png")
    return place


def test_what_is_right_has_no_findings(root):
    findings = check_directory(root, workers=1)
    assert (findings.images, findings.problem, findings.faults, findings.remarks) == (10, "", {}, {})
    assert findings.classes == {"train": {"cat": 3, "dog": 3}, "test": {"cat": 2, "dog": 2}}
    assert findings.sides == {"short": [30] * 5, "long": [40, 40, 41, 42, 42]}
    assert (findings.duplicates, findings.across, findings.stale) == ([], [], None)


def test_faults_and_wrong_names_are_told(root):
    whole = (root / "train" / "cat" / "0.png").read_bytes()
    (root / "train" / "cat" / "half.png").write_bytes(whole[: len(whole) // 2])
    (root / "test" / "dog" / "empty.jpg").write_bytes(b"")
    noise(7).save(root / "train" / "dog" / "drawing.jpg", format="png")
    findings = check_directory(root, workers=2)
    assert findings.faults.keys() == {"train/cat/half.png", "test/dog/empty.jpg"}
    assert findings.faults["test/dog/empty.jpg"] == "it is empty"
    assert findings.remarks == {"train/dog/drawing.jpg": "it is a PNG by its content"}


def test_the_same_pixels_are_found_whatever_the_file(root):
    drawing = noise(9)
    drawing.save(root / "train" / "cat" / "first.png")
    drawing.save(root / "train" / "dog" / "second.bmp")
    drawing.save(root / "test" / "dog" / "third.png", compress_level=1)
    Image.new("RGB", (5, 4)).save(root / "train" / "cat" / "black.png")
    Image.new("RGB", (4, 5)).save(root / "train" / "cat" / "other_shape.png")
    Image.new("RGB", (6, 6)).save(root / "test" / "cat" / "one.png")
    Image.new("RGB", (6, 6)).save(root / "test" / "cat" / "two.png")
    findings = check_directory(root, workers=1)
    across = ["test/dog/third.png", "train/cat/first.png", "train/dog/second.bmp"]
    assert sorted(map(sorted, findings.duplicates)) == [["test/cat/one.png", "test/cat/two.png"], across]
    assert list(map(sorted, findings.across)) == [across]


def test_what_cannot_be_trained_on_is_checked_all_the_same(tmp_path):
    noise(1).save(tmp_path / "alone.png")
    findings = check_directory(tmp_path, workers=1)
    assert "at least two are needed" in findings.problem
    assert findings.images == 1


def test_a_pack_is_read_to_the_last_byte(root, tmp_path):
    build_pack(plan_pack(root, (16, 24), 90, True), tmp_path / "pack", workers=1)
    findings = check_pack(tmp_path / "pack")
    assert (findings.faults, findings.stale) == ({}, False)
    assert findings.classes == {"train": {"cat": 3, "dog": 3}, "test": {"cat": 2, "dog": 2}}
    shard = tmp_path / "pack" / "level-16" / "00000.shard"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    noise(3).save(root / "train" / "cat" / "new.png")
    findings = check_pack(tmp_path / "pack")
    assert list(findings.faults) == ["train/dog/2.png"]
    assert "level-16/00000.shard is damaged" in findings.faults["train/dog/2.png"]
    assert findings.stale is True


def test_from_the_command_line(root, tmp_path):
    result = crescendo("check", "photos", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for words in ("10 images", "cat", "train", "median"):
        assert words in result.stdout
    (root / "test" / "dog" / "empty.jpg").write_bytes(b"")
    result = crescendo("check", "photos", "--json", cwd=tmp_path)
    assert result.returncode == 1
    assert json.loads(result.stdout)["faults"] == {"test/dog/empty.jpg": "it is empty"}
    noise(5, (9, 9)).save(root / "train" / "cat" / "0.png")
    result = crescendo("check", "photos", "--refresh", "--json", cwd=tmp_path)
    assert json.loads(result.stdout)["sides"]["short"][0] == 9
    result = crescendo("check", "fotos", cwd=tmp_path)
    assert result.returncode == 2
    assert "fotos is not a directory. Did you mean photos?" in result.stderr


def test_names_are_shown_as_they_are(root):
    """Neither as markup nor as bytes that a terminal refuses."""
    for name in ("photo [old].jpg", "x[bold].jpg", os.fsdecode(b"\xff.jpg")):
        (root / "train" / "cat" / name).write_bytes(b"no image")
    console = Console(file=io.StringIO(), width=120)
    console.print(show_findings(check_directory(root, workers=1)))
    told = console.file.getvalue()
    assert told.encode()
    for name in ("photo [old].jpg", "x[bold].jpg", "\\xff.jpg"):
        assert f"train/cat/{name}: it is not an image" in told
