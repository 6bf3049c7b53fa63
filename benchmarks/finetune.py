"""Ways to fine-tune, on 50 or 200 images: the table of docs/finetune.md.

    python benchmarks/finetune.py <directory> --root /usr/share/datasets/fashion-mnist [overrides ...]

Writes two trees of images: five classes of Fashion-MNIST to start from, 1,000 images of each, and the other
five to fine-tune on, 40 of each, or --images 10 of them. Trains the first once, and then each arm with each
seed; runs that are there are not run again. Each is a process of its own in one thread, forked when all
is imported.
"""

import argparse
import multiprocessing
import os
from pathlib import Path
from statistics import mean, stdev

import torch
from PIL import Image

from crescendo.composing import compose_config, find_config_directory
from crescendo.data.sources import idx_images
from crescendo.runs import RUN_DIRECTORY_VARIABLE, find_runs, read_summary
from crescendo.training import run

NAMES = ("t_shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
PARTS = {
    "train": (1000, 40),
    "val": (100, 40),
    "test": (200, 400),
}  # images of each class: first tree, second
COMMON = (
    "data=folder",
    "data.native_size=28",
    "data.num_workers=0",
    "data.eval_crop=1.0",
    "model=resnet20",
    "model.width=8",
    "trainer=cpu",
    "trainer.enable_progress_bar=false",
    "logger=csv",
)
LENGTHS = {  # 90 steps, of images of each class
    40: ("data.batch_size=32", "trainer.max_epochs=15"),
    10: (
        "data.batch_size=16",
        "data.fraction=0.25",
        "trainer.max_epochs=30",
        "trainer.check_val_every_n_epoch=5",
    ),
}
ARMS = {
    "scratch": ("finetuning=none", "weights=null", "optimizer=sgd"),
    "linear_probe": ("finetuning=linear_probe",),
    "all_layers": ("finetuning=all_layers",),
    "all_layers, freeze_bn": ("finetuning=all_layers", "finetuning.freeze_bn=true"),
    "layer_decay": ("finetuning=layer_decay",),
    "head_first": ("finetuning=head_first",),
}
ARMS |= {f"{arm}, progressive": (*overrides, "curriculum=to_native") for arm, overrides in ARMS.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--root", required=True)
    parser.add_argument("--images", type=int, choices=LENGTHS, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", default="|".join(ARMS), help="separated by |")
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    place = arguments.directory.absolute()
    trees = [write_tree(arguments.root, place / name, tree) for tree, name in enumerate(("first", "second"))]
    start = train(
        place / "start",
        *COMMON,
        f"data.root={trees[0]}",
        "data.batch_size=32",
        "curriculum=to_native",
        "trainer.max_epochs=4",
    )
    print("| arm | test accuracy | T MACs | CPU seconds |", flush=True)
    for arm in arguments.arms.split("|"):
        summaries = [
            read_summary(
                train(
                    place / f"arms_of_{arguments.images}" / arm.replace(", ", "_") / str(seed),
                    "experiment=finetune",
                    *COMMON,
                    f"data.root={trees[1]}",
                    f"weights={start}",
                    *LENGTHS[arguments.images],
                    f"seed={seed}",
                    *ARMS[arm],
                    *arguments.overrides,
                )
            )
            for seed in range(arguments.seeds)
        ]
        accuracies = [100 * summary["metrics"]["test/accuracy"] for summary in summaries]
        validated = mean(100 * summary["metrics"]["val/accuracy"] for summary in summaries)
        print(
            f"| {arm} | {mean(accuracies):.1f} ± {stdev(accuracies):.1f} (validation {validated:.1f}) "
            f"| {summaries[0]['train_macs'] / 1e12:.3f} "
            f"| {mean(summary['cpu_seconds'] for summary in summaries):.1f} |",
            flush=True,
        )


def write_tree(root: str, place: Path, tree: int) -> Path:
    """The first five classes, or the other five, as directories of PNG files."""
    if place.is_dir():
        return place
    sets = idx_images("FashionMNIST", root)
    for part, counts in PARTS.items():
        images = sets.test if part == "test" else sets.training
        for label in range(5 * tree, 5 * tree + 5):
            places = (images.labels == label).nonzero()[0]
            first = PARTS["train"][tree] if part == "val" else 0
            directory = place / part / NAMES[label]
            directory.mkdir(parents=True)
            for index in places[first : first + counts[tree]]:
                Image.fromarray(images.images[index, 0].numpy()).save(directory / f"{index}.png")
    return place


def train(place: Path, *overrides: str) -> Path:
    """The directory of a run, which is trained unless it is there."""
    if not place.exists():
        process = multiprocessing.get_context("fork").Process(target=_train, args=(place, overrides))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"{place}: {' '.join(overrides)} ended with {process.exitcode}")
    (directory,) = find_runs([place])
    return directory


def _train(place: Path, overrides: tuple[str, ...]) -> None:
    os.environ.pop(RUN_DIRECTORY_VARIABLE, None)
    os.environ["COLUMNS"] = "150"
    typed = [*overrides, f"runs_dir={place}"]
    run(compose_config(typed, find_config_directory()), typed, {})


if __name__ == "__main__":
    main()
