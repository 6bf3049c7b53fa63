"""What training through crescendo costs, beside a bare loop and beside Lightning's Trainer alone.

    python benchmarks/engine.py                # steps and memory: ResNet-20 and LeNet-5, batches of 128
    python benchmarks/engine.py --start        # seconds until the first step, over those of its imports
    python benchmarks/engine.py --lengths      # an epoch's seconds against its images, and against its pixels

The three loops take the same steps of the same batches: the same loader (images made up, drawn by the
curriculum's sampler), net, loss and optimizer. crescendo's has its curriculum, metrics.csv, progress bar,
signals and checkpoints; Lightning's has nothing but a training_step. They are timed in turns, in one process,
on --threads threads; given are medians over --rounds, and the ratio of each round's times.
"""

import argparse
import gc
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

import lightning as L
import rich
import torch
from timing import describe_machine
from torch import nn

from crescendo.analysis.memory import allocator_peak
from crescendo.compilation import CompileClock
from crescendo.composing import compose_config, find_config_directory
from crescendo.experiment import Experiment, prepare
from crescendo.interruption import signals_noted
from crescendo.runs import Run
from crescendo.stopwatch import Stopwatch
from crescendo.training import build_trainer

REPOSITORY = Path(__file__).parents[1]
WARM_UP = 3  # steps of each turn that are not timed
FIXED = (
    "data=synthetic",
    "data.augmentation.shift=0",
    "regularization=none",
    "curriculum=constant",
    "logger=csv",
    "trainer=cpu",
)


class Setting(NamedTuple):
    """What is trained, and the least of the bare loop's images per second that is asked for."""

    overrides: tuple[str, ...]
    steps: int
    least: float


SETTINGS = {
    "resnet20": Setting(("model=resnet20", "data.source.resolution=32"), 12, 0.98),
    "lenet5": Setting(
        ("model=lenet5", "data.in_channels=1", "data.mean=[0.5]", "data.std=[0.25]"), 150, 0.92
    ),
}
BATCH_SIZE = 128


class Taken(NamedTuple):
    """What the steps behind the warm-up took; other work on the machine delays the CPU seconds less."""

    seconds: float
    cpu_seconds: float


class Timer(L.Callback):
    """From the end of the warm-up to that of the last step."""

    def __init__(self, steps: int) -> None:
        self.steps, self._stopwatch = steps, Stopwatch()

    def step(self, number: int) -> None:
        """So many steps are over."""
        if number == WARM_UP:
            self._stopwatch.go()
        elif number == self.steps:
            self._stopwatch.hold()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        self.step(batch_idx + 1)

    @property
    def taken(self) -> Taken:
        return Taken(*self._stopwatch.reading())


class Minimal(L.LightningModule):
    """As little as Lightning asks for."""

    def __init__(self, experiment: Experiment) -> None:
        super().__init__()
        self.classifier = experiment.classifier

    def training_step(self, batch, batch_idx):  # type: ignore[no-untyped-def]
        images = self.classifier.normalise(batch.images)
        return nn.functional.cross_entropy(self.classifier.net(images), batch.labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.classifier.make_optimizer()


class Bench:
    """The three loops of a setting, each over `steps` steps."""

    def __init__(self, setting: Setting, steps: int) -> None:
        self.steps = steps
        samples = 2 * BATCH_SIZE * steps  # the source's share to train on is larger than half
        self.typed = (
            *FIXED,
            *setting.overrides,
            f"data.batch_size={BATCH_SIZE}",
            f"data.source.samples={samples}",
            "trainer.max_epochs=1",
            f"trainer.limit_train_batches={steps}",
            "trainer.limit_val_batches=0",
        )
        self.config = compose_config(self.typed, find_config_directory())
        self.loops: dict[str, Callable[[], Taken]] = {
            "bare loop": self.bare,
            "Lightning alone": self.lightning,
            "crescendo": self.crescendo,
        }

    def bare(self) -> Taken:
        experiment = prepare(self.config)
        classifier, loader = experiment.classifier, experiment.data.train_dataloader()
        net = classifier.net.train()
        optimizer = classifier.make_optimizer()
        timer = Timer(self.steps)
        for number, batch in enumerate(loader, start=1):
            loss = nn.functional.cross_entropy(net(classifier.normalise(batch.images)), batch.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            timer.step(number)
            if number == self.steps:
                break
        return timer.taken

    def lightning(self) -> Taken:
        experiment = prepare(self.config)
        timer = Timer(self.steps)
        trainer = L.Trainer(
            accelerator="cpu",
            max_epochs=1,
            limit_train_batches=self.steps,
            limit_val_batches=0,
            logger=False,
            callbacks=[timer],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        trainer.fit(Minimal(experiment), experiment.data)
        return timer.taken

    def crescendo(self) -> Taken:
        experiment = prepare(self.config)
        timer = Timer(self.steps)
        with (
            tempfile.TemporaryDirectory() as place,
            signals_noted(self.config.stop_seconds) as signals,
        ):
            trainer = build_trainer(self.config, Run(Path(place)), experiment, signals, CompileClock())
            trainer.callbacks.append(timer)
            trainer.fit(experiment.classifier, experiment.data)
        return timer.taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--nets", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--start", action="store_true", help="time the first step of python train.py")
    parser.add_argument("--lengths", action="store_true", help="time epochs of 1, 2 and 4 times the images")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(
        f"{describe_machine(torch.device('cpu'), arguments.threads)}; medians of {arguments.rounds} rounds\n"
    )
    if arguments.start:
        print(starts(arguments.rounds))
    elif arguments.lengths:
        print(lengths(arguments.rounds))
    else:
        compared_with = ["images/s over bare", "over Lightning", "in CPU time: over bare", "over Lightning"]
        heading = ["net", "loop", "ms a step", *compared_with, "asked", "peak memory over bare"]
        print(f"| {' | '.join(heading)} |\n|{'---|' * len(heading)}")
        for name in arguments.nets:
            with seen_terminal():
                rows = compared(name, SETTINGS[name], arguments.rounds)
            print(rows, flush=True)


def compared(name: str, setting: Setting, rounds: int) -> str:
    """The rows of a net."""
    timed = Bench(setting, WARM_UP + setting.steps)
    taken: dict[str, list[Taken]] = {loop: [] for loop in timed.loops}
    names = list(timed.loops)
    for number in range(rounds):
        for loop in names if number % 2 == 0 else reversed(names):
            gc.collect()
            taken[loop].append(timed.loops[loop]())
    few = Bench(setting, WARM_UP)
    peaks = {
        loop: allocator_peak(lambda run=run: run(), torch.device("cpu")) for loop, run in few.loops.items()
    }  # type: ignore[misc]
    lines = []
    for loop, own in taken.items():
        cells = [
            ratios([getattr(each, unit) for each in taken[base]], [getattr(each, unit) for each in own])
            for unit in Taken._fields
            for base in ("bare loop", "Lightning alone")
        ]
        asked = f"{setting.least:.2f}, 0.97" if loop == "crescendo" else ""
        peak = peaks[loop] / peaks["bare loop"]
        step = 1e3 * median(each.seconds for each in own) / setting.steps
        lines.append(f"| {name} | {loop} | {step:.2f} | {' | '.join(cells)} | {asked} | {peak:.3f} |")
    return "\n".join(lines)


def ratios(others: Sequence[float], own: Sequence[float]) -> str:
    """How many times as fast as another loop, round by round: median, lowest and highest."""
    each = [other / mine for other, mine in zip(others, own, strict=True)]
    return f"{median(each):.3f} ({min(each):.3f} to {max(each):.3f})"


@contextmanager
def seen_terminal() -> Iterator[None]:
    """What is printed goes to a terminal that nobody reads, so that the progress bar is drawn."""
    console = rich.get_console()
    was = console.file, console._force_terminal
    with open(os.devnull, "w") as nowhere:
        console.file, console._force_terminal = nowhere, True
        try:
            yield
        finally:
            console.file, console._force_terminal = was


def starts(rounds: int) -> str:
    """The first step of python train.py, and its imports alone, in turns; seconds of the wall clock."""
    training = [
        str(REPOSITORY / "train.py"),
        "logger=csv",
        "trainer.max_steps=1",
        "trainer.log_every_n_steps=1",
    ]
    imports, steps = [], []
    with tempfile.TemporaryDirectory() as place:
        told = _run(["-X", "importtime", *training, f"runs_dir={place}/told"]).stderr
        names = [
            line.rpartition("|")[2].strip() for line in told.splitlines() if line.startswith("import time:")
        ]
        script = Path(place) / "imports.py"
        script.write_text(IMPORTS.format(names=names[1:]))
        for number in range(rounds):
            begin = time.perf_counter()
            _run([str(script)])
            imports.append(time.perf_counter() - begin)
            steps.append(_until_first_step(training, Path(place) / str(number)))
    ratios = [step / alone for step, alone in zip(steps, imports, strict=True)]
    return (
        f"imports {median(imports):.2f} s, first step ended after {median(steps):.2f} s: "
        f"{median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
    )


IMPORTS = """
import contextlib, importlib
for name in {names}:
    with contextlib.suppress(ImportError):  # what a package tried, and did without
        importlib.import_module(name)
"""


def _run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True)


def _until_first_step(training: list[str], runs: Path) -> float:
    """Seconds until metrics.csv has the first step's row."""
    begin = time.perf_counter()
    command = [sys.executable, *training, f"runs_dir={runs}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not any(path.read_text().count("\n") > 1 for path in runs.rglob("metrics.csv")):
            if process.poll() is not None:
                raise RuntimeError(f"it ended without a step: {' '.join(command)}")
            time.sleep(0.005)
        return time.perf_counter() - begin


def lengths(rounds: int) -> str:
    """Seconds of a training of 1, 2 and 4 times the steps, and of a step at 16 to 64 px."""
    setting = SETTINGS["resnet20"]
    benches = [Bench(setting, times * setting.steps) for times in (1, 2, 4)]
    seconds = [[_seconds(bench.crescendo) for bench in benches] for _ in range(rounds)]
    growth = [(four - two) / (two - one) for one, two, four in seconds]
    lines = [
        f"1, 2, 4 times {setting.steps * BATCH_SIZE} images: "
        + ", ".join(f"{median(each):.2f} s" for each in zip(*seconds, strict=True)),
        f"from 2 to 4 times over 1 to 2 times, 2 if linear: {median(growth):.3f} "
        f"({min(growth):.3f} to {max(growth):.3f})",
    ]
    for pixels in (16, 24, 32, 48, 64):
        sized = setting._replace(overrides=("model=resnet20", f"data.source.resolution={pixels}"))
        bench = Bench(sized, WARM_UP + 4)
        step = median(bench.crescendo().seconds / 4 for _ in range(rounds))
        lines.append(
            f"{pixels} px: {1e3 * step:.1f} ms a step, {1e9 * step / BATCH_SIZE / pixels**2:.0f} ns a pixel"
        )
    return "\n".join(lines)


def _seconds(task: Callable[[], object]) -> float:
    begin = time.perf_counter()
    task()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
