"""How long the first step of python train.py takes to come, beside its imports alone.

    python benchmarks/start_up.py

The default training is begun, and its imports are made alone, in turns: the modules that the training had
imported when its first step was logged, in that order. Seconds of the wall clock; medians, and the ratio of
each round.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from timing import describe_machine

REPOSITORY = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    training = [
        str(REPOSITORY / "train.py"),
        "logger=csv",
        "trainer.max_steps=1",
        "trainer.log_every_n_steps=1",
    ]
    imports, steps = [], []
    with tempfile.TemporaryDirectory() as place:
        told = Path(place) / "imports.txt"
        _until_first_step(["-X", "importtime", *training], Path(place) / "told", told)
        names = [
            line.rpartition("|")[2].strip()
            for line in told.read_text().splitlines()
            if line.startswith("import time:")
        ]
        script = Path(place) / "imports.py"
        script.write_text(IMPORTS.format(names=names[1:]))
        for number in range(rounds):
            begin = time.perf_counter()
            subprocess.run([sys.executable, str(script)], check=True, capture_output=True)
            imports.append(time.perf_counter() - begin)
            steps.append(_until_first_step(training, Path(place) / str(number)))
    ratios = [step / alone for step, alone in zip(steps, imports, strict=True)]
    print(
        f"{describe_machine(torch.device('cpu'), torch.get_num_threads())}; medians of {rounds} rounds\n"
        f"imports {median(imports):.2f} s, first step ended after {median(steps):.2f} s: "
        f"{median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
    )


IMPORTS = """
import contextlib, importlib
for name in {names}:
    with contextlib.suppress(ImportError):  # what a package tried, and did without
        importlib.import_module(name)
"""


def _until_first_step(training: list[str], runs: Path, told: Path = Path(os.devnull)) -> float:
    """Seconds until metrics.csv has the first step's row; `told` has what was printed so far, as errors."""
    command = [sys.executable, *training, f"runs_dir={runs}"]
    with told.open("w") as errors:
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        while not any(path.read_text().count("\n") > 1 for path in runs.rglob("metrics.csv")):
            if process.poll() is not None:
                raise RuntimeError(f"it ended without a step: {' '.join(command)}")
            time.sleep(0.005)
        seconds = time.perf_counter() - begin
        process.kill()
        process.wait()
    return seconds


if __name__ == "__main__":
    main()
