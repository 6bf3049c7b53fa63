"""The README's result table and its training curve, from real runs.

    python benchmarks/first_run.py --seeds 1,2,3 [overrides of train.py ...]

Trains once for each seed, one after the other, in subprocesses; prints the mean and spread as a row of
a markdown table; draws the last run's metrics.csv to --picture.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean, stdev

import matplotlib.pyplot as plt

REPOSITORY = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[1, 2, 3]
    )
    parser.add_argument("--picture", type=Path)
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        runs = [train(seed, arguments.overrides, Path(place)) for seed in arguments.seeds]
        summaries = [json.loads((run / "summary.json").read_text()) for run in runs]
        accuracies = [summary["metrics"]["test/accuracy"] for summary in summaries]
        seconds = [summary["seconds"] for summary in summaries]
        deviation = f" ± {stdev(accuracies):.4f}" if len(accuracies) > 1 else ""
        print("| seeds | test accuracy | seconds, slowest | images/s |")
        print(
            f"| {len(runs)} | {mean(accuracies):.4f}{deviation} | {max(seconds):.0f} "
            f"| {mean(summary['images_per_second'] for summary in summaries):.0f} |"
        )
        if arguments.picture:
            draw(runs[-1] / "metrics.csv", arguments.picture)


def train(seed: int, overrides: list[str], place: Path) -> Path:
    """One run in a process of its own; its directory."""
    runs = place / f"seed{seed}"
    command = [sys.executable, str(REPOSITORY / "train.py"), f"seed={seed}", f"runs_dir={runs}", *overrides]
    subprocess.run(command, check=True)
    (config,) = runs.rglob("config.yaml")
    return config.parent


def draw(metrics: Path, picture: Path) -> None:
    """Accuracy over epochs, on bands that show the curriculum's stages."""
    with metrics.open() as file:
        rows = list(csv.DictReader(file))
    training = [row for row in rows if row["train/accuracy"]]
    validation = [row for row in rows if row["val/accuracy"]]
    steps_per_epoch = (int(training[-1]["step"]) + 1) / (int(training[-1]["epoch"]) + 1)
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(8, 5), sharex=True, height_ratios=[3, 1], layout="constrained"
    )
    above.plot(
        [(int(row["step"]) + 1) / steps_per_epoch for row in training],
        [float(row["train/accuracy"]) for row in training],
        color="tab:blue",
        label="training, at the stage's resolution",
    )
    above.plot(
        [int(row["epoch"]) + 1 for row in validation],
        [float(row["val/accuracy"]) for row in validation],
        color="tab:red",
        marker="o",
        markersize=3,
        label="validation, at the last stage's resolution",
    )
    above.set_ylabel("accuracy")
    above.set_ylim(0, 1.02)
    above.legend(loc="lower right")
    shown = {int(row["epoch"]): row for row in training}
    epochs = sorted(shown)
    for name, axis, colour in (
        ("curriculum/resolution", below, "tab:green"),
        ("regularization/label_smoothing", below.twinx(), "tab:purple"),
    ):
        values = [float(shown[epoch][name]) for epoch in epochs]
        axis.step([*epochs, epochs[-1] + 1], [*values, values[-1]], where="post", color=colour)
        axis.set_ylabel(name.split("/")[1].replace("_", "\n"), color=colour)
        axis.set_ylim(0, max(values) * 1.15 or 1)
    for row in shown.values():
        if int(row["curriculum/stage"]) % 2 == 0:
            for axis in (above, below):
                axis.axvspan(int(row["epoch"]), int(row["epoch"]) + 1, color="0.93", linewidth=0, zorder=0)
    below.set_xlabel("epoch")
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    main()
