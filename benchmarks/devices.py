"""What a second process brings: images/s of DDP on two CPU processes, over those of one process.

    python benchmarks/devices.py --turns 5 [overrides of train.py ...]

Each process has one thread. Both train the same global batches (ResNet-20 at 32 px, batch 128, unless
overridden), in turns, so that a machine that slows down slows both; the ratio is taken within a turn.
images_per_second is that of training alone, from the run's summary.json.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from statistics import median

from first_run import train

TRAINING = (
    "data=synthetic",
    "data.source.samples=5700",  # 5130 to train on: 40 steps
    "data.batch_size=128",
    "model=resnet20",
    "curriculum=constant",
    "trainer=cpu",
    "trainer.max_epochs=1",
    "trainer.enable_progress_bar=false",
    "lr_schedule.warmup_epochs=0",
    "logger=csv",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    ratios = []
    with tempfile.TemporaryDirectory() as place:
        for turn in range(arguments.turns):
            one, two = (
                images_per_second(devices, arguments.overrides, Path(place) / str(turn)) for devices in (1, 2)
            )
            ratios.append(two / one)
            print(f"turn {turn + 1}: {one:.0f} and {two:.0f} images/s, ratio {two / one:.2f}", flush=True)
    print(f"median {median(ratios):.2f}, from {min(ratios):.2f} to {max(ratios):.2f}")


def images_per_second(devices: int, overrides: list[str], place: Path) -> float:
    run = train(0, [*TRAINING, *overrides, f"trainer.devices={devices}"], place / str(devices))
    speed: float = json.loads((run / "summary.json").read_text())["images_per_second"]
    return speed


if __name__ == "__main__":
    main()
