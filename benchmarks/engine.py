"""What training through crescendo costs, beside a bare loop and beside Lightning's Trainer alone.

    python benchmarks/engine.py          # steps and memory: ResNet-20 and LeNet-5, batches of 128
    python benchmarks/engine.py --gpu    # steps and memory on a GPU, in bfloat16 where it has that

The three loops take the same steps of the same batches: the same loader (images made up, drawn by the
curriculum's sampler), net, loss and optimizer. crescendo's has its curriculum, metrics.csv, progress bar,
signals and checkpoints; Lightning's has nothing but a training_step. They go on side by side in one process,
a few steps of one at a time, on --threads threads or on the GPU. Given are medians over --rounds, and the
ratio of each round's times.
"""

import argparse
import gc
import os
import tempfile
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
from turns import PassOn, in_turns

from crescendo.analysis.memory import allocator_peak
from crescendo.compilation import CompileClock
from crescendo.composing import compose_config, find_config_directory
from crescendo.devices import now, precision_of, set_up_kernels
from crescendo.experiment import Experiment, prepare
from crescendo.interruption import Signals
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
)


class Setting(NamedTuple):
    """What is trained, for how many turns of how many steps on a CPU and on a GPU, which works off a queue
    between two turns, and the least of the bare loop's images per second that is asked for.
    """

    overrides: tuple[str, ...]
    turns: int
    steps: int
    gpu_steps: int
    least: float


SETTINGS = {
    "resnet20": Setting(("model=resnet20",), 12, 1, 30, 0.98),
    "lenet5": Setting(
        ("model=lenet5", "data.in_channels=1", "data.mean=[0.5]", "data.std=[0.25]"), 30, 5, 30, 0.92
    ),
}
BATCH_SIZE = 128


class Taken(NamedTuple):
    """What the steps behind the warm-up took; other work on the machine delays the CPU seconds less."""

    seconds: float
    cpu_seconds: float


class Timer(L.Callback):
    """The time of all turns, each from what the device has done to what it has done, without the warm-up."""

    def __init__(self, bench: "Bench", pass_on: PassOn) -> None:
        self.bench, self._pass_on, self._stopwatch = bench, pass_on, Stopwatch()

    def step(self, number: int) -> None:
        """So many steps are over."""
        turn, begun = divmod(number - WARM_UP, self.bench.steps_a_turn)
        if turn < 0 or begun:
            return
        now(self.bench.device)
        self._stopwatch.hold()
        if number < self.bench.steps:
            self._pass_on()
            self._stopwatch.go()

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
    """The three loops of a setting, each over `turns` of so many steps and those of the warm-up."""

    def __init__(
        self, overrides: Sequence[str], device: torch.device, *, turns: int, steps_a_turn: int
    ) -> None:
        self.device, self.steps_a_turn = device, steps_a_turn
        self.steps = steps = WARM_UP + turns * steps_a_turn
        samples = 2 * BATCH_SIZE * steps  # the source's share to train on is larger than half
        self.typed = (
            *FIXED,
            *overrides,
            *(("trainer=gpu", "data.num_workers=4") if device.type == "cuda" else ("trainer=cpu",)),
            f"data.batch_size={BATCH_SIZE}",
            f"data.source.samples={samples}",
            "trainer.max_epochs=1",
            f"trainer.limit_train_batches={steps}",
            "trainer.limit_val_batches=0",
        )
        self.config = compose_config(self.typed, find_config_directory())
        self.precision = precision_of(self.config.trainer)
        self.loops: dict[str, Callable[[PassOn], Taken]] = {
            "bare loop": self.bare,
            "Lightning alone": self.lightning,
            "crescendo": self.crescendo,
        }

    def bare(self, pass_on: PassOn) -> Taken:
        experiment = prepare(self.config)
        experiment.data.trainer = self._trainer()  # the loader asks it for its device
        classifier, loader = experiment.classifier.to(self.device), experiment.data.train_dataloader()
        net = classifier.net.train()
        optimizer = classifier.make_optimizer()
        timer = Timer(self, pass_on)
        in_bfloat16 = torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed")
        for number, batch in enumerate(loader, start=1):
            with in_bfloat16:
                loss = nn.functional.cross_entropy(net(classifier.normalise(batch.images)), batch.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            timer.step(number)
            if number == self.steps:
                break
        return timer.taken

    def lightning(self, pass_on: PassOn) -> Taken:
        experiment = prepare(self.config)
        timer = Timer(self, pass_on)
        trainer = self._trainer(timer)
        trainer.fit(Minimal(experiment), experiment.data)
        return timer.taken

    def crescendo(self, pass_on: PassOn) -> Taken:
        experiment = prepare(self.config)
        timer = Timer(self, pass_on)
        signals = Signals(self.config.stop_seconds)
        with tempfile.TemporaryDirectory() as place:
            trainer = build_trainer(self.config, Run(Path(place)), experiment, signals, CompileClock())
            trainer.callbacks.append(timer)
            trainer.fit(experiment.classifier, experiment.data)
        return timer.taken

    def _trainer(self, *callbacks: L.Callback) -> L.Trainer:
        """Lightning's, with nothing that it can do without."""
        return L.Trainer(
            accelerator=self.device.type,
            devices=1,
            precision=self.precision,  # type: ignore[arg-type]  # a str to us
            benchmark=self.device.type == "cuda",
            max_epochs=1,
            limit_train_batches=self.steps,
            limit_val_batches=0,
            logger=False,
            callbacks=list(callbacks),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--nets", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--gpu", action="store_true", help="train on a GPU")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if arguments.gpu else "cpu")
    set_up_kernels(tf32=True)
    print(f"{describe_machine(device, arguments.threads)}; medians of {arguments.rounds} rounds\n")
    compared_with = ["images/s over bare", "over Lightning", "in CPU time: over bare", "over Lightning"]
    heading = ["net", "loop", "ms a step", *compared_with, "asked", "peak memory over bare"]
    print(f"| {' | '.join(heading)} |\n|{'---|' * len(heading)}")
    for name in arguments.nets:
        with seen_terminal():
            rows = compared(name, SETTINGS[name], arguments.rounds, device)
        print(rows, flush=True)


def compared(name: str, setting: Setting, rounds: int, device: torch.device) -> str:
    """The rows of a net."""
    steps_a_turn = setting.gpu_steps if device.type == "cuda" else setting.steps
    timed = Bench(setting.overrides, device, turns=setting.turns, steps_a_turn=steps_a_turn)
    names = list(timed.loops)
    taken: dict[str, list[Taken]] = {loop: [] for loop in names}
    for number in range(rounds):
        gc.collect()
        order = names if number % 2 == 0 else names[::-1]
        for loop, each in zip(order, in_turns([timed.loops[loop] for loop in order]), strict=True):
            taken[loop].append(each)
    few = Bench(setting.overrides, device, turns=1, steps_a_turn=1)
    peaks = {
        loop: allocator_peak(lambda run=run: in_turns([run]), device)  # type: ignore[misc]
        for loop, run in few.loops.items()
    }
    lines = []
    for loop, own in taken.items():
        cells = [
            ratios([getattr(each, unit) for each in taken[base]], [getattr(each, unit) for each in own])
            for unit in Taken._fields
            for base in ("bare loop", "Lightning alone")
        ]
        asked = f"{setting.least:.2f}, 0.97" if loop == "crescendo" else ""
        peak = peaks[loop] / peaks["bare loop"]
        step = 1e3 * median(each.seconds for each in own) / setting.turns / steps_a_turn
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


if __name__ == "__main__":
    main()
