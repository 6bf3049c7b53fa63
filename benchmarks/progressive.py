"""What progressive learning saves: accuracy against cost for fixed and for growing resolution.

    python benchmarks/progressive.py openclipart --root <directory>      prepared there if it is not yet
    python benchmarks/progressive.py fashion_mnist --root /usr/share/datasets/fashion-mnist
    python benchmarks/progressive.py openclipart --root <directory> --quick
    python benchmarks/progressive.py --picture docs/images/progressive.png

For each seed and budget a fixed and a progressive run of train.py start together, each in one thread on a
core of its own; the arms swap cores from pair to pair. Each run is a row of --results at its end, and what
is there already is not run again. The end prints the points and the saving: see frontier.py.
"""

import argparse
import hashlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import openclipart
from frontier import ARMS, Result, append, draw, read_results, table

REPOSITORY = Path(__file__).parents[1]


class Budget(NamedTuple):
    """Epochs of the two runs that are started together."""

    fixed: int
    progressive: int


EVERYWHERE = (
    "trainer=cpu",
    "trainer.enable_progress_bar=false",
    "data.batch_size=32",
    "data.num_workers=0",
    "logger=csv",
)


@dataclass(frozen=True)
class Measurement:
    """Overrides of train.py, and the budgets that are spent.

    A run validates after each third of its epochs, which are a multiple of three.
    """

    common: Sequence[str]
    fixed: Sequence[str]
    progressive: Sequence[str]
    budgets: Sequence[Budget]
    seeds: Sequence[int] = (1, 2, 3, 4, 5)

    def settings(self, arm: str) -> list[str]:
        own = {"fixed": self.fixed, "progressive": self.progressive}[arm]
        return [*EVERYWHERE, *self.common, *own]

    def digest(self, arm: str) -> str:
        """Tells rows apart that were measured under other settings."""
        return hashlib.sha256(repr(self.settings(arm)).encode()).hexdigest()[:8]

    def overrides(self, arm: str, budget: Budget, seed: int) -> list[str]:
        epochs = getattr(budget, arm)
        validate = f"trainer.check_val_every_n_epoch={epochs // 3}"
        return [*self.settings(arm), f"trainer.max_epochs={epochs}", validate, f"seed={seed}"]


# Two thirds of the epochs at the low resolution; the learning rate falls in the last third alone.
GROWING = ("curriculum.stages=2", "curriculum.split=[2,1]", "lr_schedule.hold=0.6667")

MEASUREMENTS = {
    "openclipart": Measurement(
        common=(
            "data=openclipart",
            "data.val_fraction=0.25",
            "model=resnet18",
            "model.width=0.25",
            "regularization=none",
        ),
        fixed=("curriculum=constant", "curriculum.resolution={start: 96, end: 96}"),
        progressive=("curriculum=progressive", "curriculum.resolution={start: 48, end: 96}", *GROWING),
        budgets=(Budget(6, 9), Budget(9, 15), Budget(12, 21), Budget(18, 27), Budget(36, 54)),
    ),
    # 4,000 training and 30,000 validation images; all 10,000 of the test.
    "fashion_mnist": Measurement(
        common=(
            "data=fashion_mnist",
            "data.fraction=0.1333",
            "data.val_fraction=0.5",
            "model=resnet20",
            "model.width=8",
            "regularization=none",
        ),
        # learning rates by validation of one seed after 16 epochs, of 0.05 and 0.1; all others are 0.05
        fixed=("curriculum=at_28px", "optimizer.lr=0.1"),
        progressive=("curriculum=to_28px", *GROWING),
        budgets=(Budget(6, 9), Budget(9, 15), Budget(12, 21), Budget(18, 24), Budget(36, 54)),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "data", nargs="?", choices=MEASUREMENTS, help="what to measure; else only the picture"
    )
    parser.add_argument("--root", type=Path, help="data.root of train.py")
    parser.add_argument("--results", type=Path, default=REPOSITORY / "docs" / "progressive.csv")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--cores", type=_numbers, default=sorted(os.sched_getaffinity(0))[:2])
    parser.add_argument("--seeds", type=_numbers, help="such as 1,2,3; 1 to 5 if not given")
    parser.add_argument("--quick", action="store_true", help="a quarter of the images, two seeds and budgets")
    arguments = parser.parse_args()
    if arguments.data:
        if arguments.root is None:
            parser.error("--root is missing")
        if arguments.data == "openclipart":
            openclipart.prepare(arguments.root)
        measurement = MEASUREMENTS[arguments.data]
        if arguments.quick:
            measurement = quick(measurement)
            arguments.results = Path(tempfile.mkdtemp()) / "quick.csv"
        if arguments.seeds:
            measurement = replace(measurement, seeds=arguments.seeds)
        measure(arguments.data, measurement, arguments.root, arguments.results, arguments.cores)
    measurements = MEASUREMENTS | ({arguments.data: measurement} if arguments.data else {})
    rows = read_results(arguments.results)
    results = [row for row in rows if row.settings == measurements[row.data].digest(row.arm)]
    if len(results) < len(rows):
        print(f"{len(rows) - len(results)} rows of {arguments.results} are of other settings")
    for data in dict.fromkeys(result.data for result in results):
        print(table([result for result in results if result.data == data]))
    if arguments.picture:
        draw(results, arguments.picture)


def quick(measurement: Measurement) -> Measurement:
    """The same mechanism in minutes: its figures show that it works, and no saving."""
    common = [override for override in measurement.common if not override.startswith("data.fraction")]
    fewer = ["data.fraction=0.25"]
    if "data=fashion_mnist" in common:
        fewer = ["data.fraction=0.05", "trainer.limit_val_batches=0.1", "trainer.limit_test_batches=0.2"]
    return replace(
        measurement,
        common=[*common, *fewer],
        budgets=(Budget(3, 6), Budget(6, 9)),
        seeds=(1, 2),
    )


def measure(data: str, measurement: Measurement, root: Path, results: Path, cores: Sequence[int]) -> None:
    """Run what is not in `results` yet, fixed and progressive side by side."""
    done = {(row.data, row.arm, row.settings, row.epochs, row.seed) for row in read_results(results)}
    swaps = itertools.cycle((list(cores), list(reversed(cores))))
    for seed, (number, budget) in itertools.product(measurement.seeds, enumerate(measurement.budgets, 1)):
        missing = [
            arm
            for arm in ARMS
            if (data, arm, measurement.digest(arm), getattr(budget, arm), seed) not in done
        ]
        with ThreadPoolExecutor(max_workers=len(cores)) as pool:
            places = itertools.cycle(next(swaps))
            jobs = [
                pool.submit(train, data, arm, number, budget, seed, measurement, root, next(places))
                for arm in missing
            ]
            for job in as_completed(jobs):
                append(results, job.result())


def train(
    data: str,
    arm: str,
    number: int,
    budget: Budget,
    seed: int,
    measurement: Measurement,
    root: Path,
    core: int,
) -> Result:
    """One run in a process of its own, in one thread on one core."""
    with tempfile.TemporaryDirectory() as place:
        overrides = [*measurement.overrides(arm, budget, seed), f"data.root={root}"]
        command = [sys.executable, str(REPOSITORY / "train.py"), *overrides, f"runs_dir={place}"]
        process = subprocess.run(
            ["taskset", "--cpu-list", str(core), *command],
            env=os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
            capture_output=True,
            text=True,
        )
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{process.stdout[-2000:]}{process.stderr[-2000:]}")
        (path,) = Path(place).rglob("summary.json")
        summary = json.loads(path.read_text())
    return Result(
        data,
        arm,
        number,
        getattr(budget, arm),
        seed,
        round(summary["metrics"]["val/accuracy"], 5),
        round(summary["metrics"]["test/accuracy"], 5),
        summary["train_macs"],
        summary["cpu_seconds"],
        measurement.digest(arm),
    )


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


if __name__ == "__main__":
    main()
