"""Scenes whose boxes are known, and that a class activation map lies on the object (benchmarks/cam.py)."""

import numpy as np
import pytest
from cam import look, train_on_scenes
from PIL import Image, ImageDraw
from scenes import CLASSES, FINER, SIDE, Box, draw_shape, make_scenes


@pytest.mark.parametrize("name", CLASSES)
def test_a_shape_reaches_the_sides_of_its_box(name):
    image, box = Image.new("RGB", (SIDE * FINER, SIDE * FINER)), Box(5, 9, 21, 25)
    draw_shape(ImageDraw.Draw(image), name, box, (255, 255, 255))
    assert image.resize((SIDE, SIDE), Image.Resampling.BOX).getbbox() == box


def test_a_box_holds_its_own_pixels_alone():
    box = Box(left=2, top=4, right=6, bottom=8)
    assert box.holds(row=4, column=2)
    assert box.holds(row=7, column=5)
    assert not any(box.holds(*place) for place in ((3, 2), (4, 1), (8, 5), (7, 6)))
    assert box.share == 16 / SIDE**2
    assert box.meets(Box(5, 7, 9, 9))
    assert not box.meets(Box(6, 4, 9, 8))


def test_a_scene_has_two_shapes_of_two_classes(tmp_path):
    scenes = make_scenes(tmp_path / "scenes", 20, np.random.default_rng(0))
    assert [scene.label for scene in scenes] == 4 * [0, 1, 2, 3, 4]
    assert sorted(path.name for path in (tmp_path / "scenes").iterdir()) == list(CLASSES)
    for scene in scenes:
        assert scene.file.parent.name == CLASSES[scene.label]
        assert not scene.object.meets(scene.distractor)
        assert scene.distractor.share < scene.object.share / 2


@pytest.mark.slow
def test_the_peaks_of_the_maps_lie_on_the_object(tmp_path):
    result = look(
        *train_on_scenes(tmp_path, seed=0, training=1500, test=150, overrides=["trainer.max_epochs=10"])
    )
    assert result.accuracy > 0.8
    assert result.on_object >= 0.9
    assert result.chance < 0.15
    assert result.on_distractor < 0.05
