"""Whether a class activation map lies on the object: scenes with known boxes, a small net, its maps' peaks.

    python benchmarks/cam.py --seed 0 [--train 2000] [--test 500] [overrides of train.py ...]
    python benchmarks/cam.py --seed 0 --runs runs/scaling_cam/<sweep>     # trained on the scenes of this seed

The scenes are those of scenes.py: an object, a smaller distractor of another class, clutter. Where the net's
answer is right, told are the share of maps whose largest value lies inside the object's box, that of the
distractor's box, and what chance gives: the boxes' mean share of the image.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from first_run import train
from scenes import CLASSES, SIDE, Scene, add_options, make_data_set

from crescendo.analysis.cam import class_maps, enlarged, peaks
from crescendo.analysis.overlay import draw_columns
from crescendo.evaluation import load_run
from crescendo.explanation import explain_run
from crescendo.runs import find_runs, read_config

TRAINING = (
    "data=scenes",
    "model=resnet20",
    "model.width=8",
    "curriculum=constant",
    f"curriculum.resolution.end={SIDE}",
    "regularization=none",
    "trainer=cpu",
    "trainer.max_epochs=12",
    "trainer.enable_progress_bar=false",
    "logger=csv",
)


class Result(NamedTuple):
    """Of test scenes: accuracy of all; of those answered right, shares of peaks in a box, and chance."""

    accuracy: float
    on_object: float
    on_distractor: float
    chance: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_options(parser)
    parser.add_argument(
        "--runs", nargs="+", type=Path, help="trained ones, sweeps or patterns, instead of a training"
    )
    parser.add_argument("--picture", type=Path, help="a scene of each class and the maps of every stage")
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    seed, training, test = arguments.seed, arguments.train, arguments.test
    with tempfile.TemporaryDirectory() as place:
        if arguments.runs:
            scenes = make_data_set(Path(place) / "scenes", seed, training, test)
            runs = find_runs(arguments.runs)
            names = [read_config(run).get("arm") or run.name for run in runs]
        else:
            run, scenes = train_on_scenes(Path(place), seed, training, test, arguments.overrides)
            runs, names = [run], [f"seed {seed}"]
        print("| run | test accuracy | peaks in the object's box | by chance | in the distractor's box |")
        print("|---|---|---|---|---|")
        for name, run in zip(names, runs, strict=True):
            result = look(run, scenes)
            print(
                f"| {name} | {result.accuracy:.1%} | {result.on_object:.1%} | {result.chance:.1%} "
                f"| {result.on_distractor:.1%} |"
            )
        if arguments.picture:
            files = [scene.file for scene in scenes[: len(CLASSES)]]
            columns = [column for run in runs for column in explain_run(load_run(run), files, stage="all")]
            figure = draw_columns([file.parent.name for file in files], columns)
            figure.savefig(arguments.picture, dpi=100, facecolor="white")


def train_on_scenes(
    place: Path, seed: int, training: int, test: int, overrides: Sequence[str] = ()
) -> tuple[Path, list[Scene]]:
    """Make scenes and train a net on them: its run, and the test scenes."""
    scenes = make_data_set(place / "scenes", seed, training, test)
    return train(seed, [*TRAINING, f"data.root={place / 'scenes'}", *overrides], place / "runs"), scenes


def look(run: Path, scenes: Sequence[Scene]) -> Result:
    """Where the peaks of a run's maps lie, each map that of the scene's class and enlarged to the scene."""
    trained = load_run(run)
    assert tuple(trained.class_names) == CLASSES
    classifier, right, found = trained.classifier, [], []
    for batch in trained.batches([scene.file for scene in scenes]):
        part = scenes[len(right) : len(right) + len(batch)]
        labels = [scene.label for scene in part]
        with torch.inference_mode():
            right += (classifier(batch).argmax(1) == torch.tensor(labels)).tolist()
        maps = class_maps(classifier.net, classifier.normalise(batch), labels)
        found += peaks(enlarged(maps, SIDE)).tolist()
    answered = [
        (scene, *peak) for scene, is_right, peak in zip(scenes, right, found, strict=True) if is_right
    ]
    return Result(
        accuracy=len(answered) / len(scenes),
        on_object=float(np.mean([scene.object.holds(row, column) for scene, row, column in answered])),
        on_distractor=float(
            np.mean([scene.distractor.holds(row, column) for scene, row, column in answered])
        ),
        chance=float(np.mean([scene.object.share for scene, *_ in answered])),
    )


if __name__ == "__main__":
    main()
