"""crescendo explain, on runs whose weights are written down."""

from pathlib import Path

import numpy as np
import pytest
import torch
from commands import TINY, crescendo, only_run, train
from PIL import Image

from crescendo.analysis.choices import Method
from crescendo.errors import UserError
from crescendo.evaluation import load_run, predict_files
from crescendo.explanation import explain_files, explain_run

NAMES = "data.class_names=[zero,one,two,three,four,five,six,seven,eight,nine]"


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """A net with a linear head and one without, of two resolutions."""
    found = {}
    for net, resolution in (("resnet20", 36), ("lenet5_modern", 32)):
        place = tmp_path_factory.mktemp(net)
        end = f"curriculum.resolution.end={resolution}"
        result = train(*TINY, f"model={net}", end, NAMES, "data.eval_crop=0.5", "logger=csv", cwd=place)
        assert result.returncode == 0, result.stderr
        found[net] = only_run(place)
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    """18 images, more than one batch, whose middle half is black on white."""
    place, files = tmp_path_factory.mktemp("images"), []
    for index in range(18):
        pixels = np.full((40, 40, 3), 255, np.uint8)
        pixels[10:30, 10:30] = index
        files.append(place / f"{index}.png")
        Image.fromarray(pixels).save(files[-1])
    return files


def test_maps_lie_over_what_the_net_saw_and_tell_what_predict_answers(runs, files):
    trained = load_run(runs["resnet20"])
    (column,) = explain_run(trained, files)
    assert column.images.shape == (18, 3, 36, 36)
    inside = column.images[7, :, 2:-2, 2:-2]
    assert inside.unique().tolist() == [pytest.approx(7 / 255)]  # the middle half alone
    assert column.maps.shape == (18, 36, 36)
    assert 0 <= column.maps.min() <= column.maps.max() <= 1
    answers = predict_files(runs["resnet20"], files, top=1)
    assert column.captions == [f"{name} {probability:.3f}" for ((name, probability),) in answers]
    assert column.title == f"resnet20, stage 3\nCAM, 9x9\n{runs['resnet20'].name}"


def test_a_class_of_the_users_choice_is_drawn_beside_the_answer(runs, files):
    trained = load_run(runs["lenet5_modern"])
    (answered,), (chosen,) = (explain_run(trained, files[:1], class_name=name) for name in (None, "four"))
    (best,) = predict_files(runs["lenet5_modern"], files[:1], top=10)
    name, probability = best[0]
    assert name != "four"
    assert chosen.captions == [f"four {dict(best)['four']:.3f}\nanswer: {name} {probability:.3f}"]
    assert not torch.equal(chosen.maps, answered.maps)


def test_all_stages_and_a_chosen_one(runs, files):
    trained = load_run(runs["resnet20"])
    columns = explain_run(trained, files[:2], stage="all")
    assert [column.title.split("\n")[:2] for column in columns] == [
        ["resnet20, stage 1", "Grad-CAM, 36x36"],
        ["resnet20, stage 2", "Grad-CAM, 18x18"],
        ["resnet20, stage 3", "CAM, 9x9"],
    ]
    (second,) = explain_run(trained, files[:2], stage="2")
    torch.testing.assert_close(second.maps, columns[1].maps)
    (last,) = explain_run(trained, files[:2], method=Method.GRAD_CAM)
    assert "Grad-CAM, 9x9" in last.title
    torch.testing.assert_close(last.maps, columns[2].maps, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"stage": "0"}, "--stage 0: resnet20 has stages 1 to 3, or give all."),
        ({"stage": "first"}, "--stage first: resnet20 has stages 1 to 3"),
        ({"class_name": "sixty"}, "knows no such class. Did you mean six"),
        ({"stage": "all", "method": Method.CAM}, "resnet20's head weighs the maps of its last stage"),
    ],
)
def test_what_a_run_has_not_is_named(runs, files, arguments, words):
    with pytest.raises(UserError, match=words):
        explain_files([runs["resnet20"]], files[:1], **arguments)


def test_runs_side_by_side(runs, files, tmp_path):
    arguments = (str(runs["resnet20"]), *map(str, files[:2]), "--run", str(runs["lenet5_modern"]))
    result = crescendo("explain", *arguments, "--out", "maps.png", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (result.stdout.split(), result.stderr) == (["maps.png"], "")
    assert [file.name for file in tmp_path.iterdir()] == ["maps.png"]
    with Image.open(tmp_path / "maps.png") as picture:
        assert picture.width == 900  # 3 cells of 2 inches at 150 dots an inch
    result = crescendo("explain", *arguments, "--method", "cam", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: --method cam: lenet5_modern does not end in global average")


@pytest.mark.slow
def test_runs_of_arms_are_named_by_them_and_a_pattern_stands_for_its_runs(files, tmp_path):
    sweep = tmp_path / "runs" / "sweep"
    for job, arm in enumerate(("base", "deeper")):
        given = (
            f"arm={arm}",
            "model=resnet20",
            "curriculum=constant",
            "logger=csv",
            f"runs_dir={sweep}/{job}",
        )
        result = train(*TINY, *given, "debug=smoke", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    figure = explain_files([sweep], files[:2])
    titles = [axis.get_title() for axis in figure.axes[:3]]
    assert titles == ["", *(f"resnet20, stage 3\nCAM, 8x8\n{arm}" for arm in ("base", "deeper"))]
    twice = explain_files([sweep, tmp_path / "runs" / "s*" / "0"], files[:1])  # one arm a second time
    names = [axis.get_title().split("\n")[-1] for axis in twice.axes[1:]]
    runs = [config.parent.name for config in sorted(sweep.rglob("config.yaml"))]
    assert names == [*runs, runs[0]]
