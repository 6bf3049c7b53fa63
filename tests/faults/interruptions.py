"""Runs that are interrupted at random moments, and whether each ends as the run that was not.

    python tests/faults/interruptions.py kills --count 100           SIGKILL to a run with 2 loader workers
    python tests/faults/interruptions.py terminations --count 20     SIGTERM to rank 0 of two DDP processes

Two curriculum stages, averaged weights, and every knob rising. A checkpoint is written at every step, so that
many a kill comes while one is written. After an interruption every checkpoint is read; then the run is
resumed, every third is interrupted once more, and its end is held against the uninterrupted run's bit by bit.
TMPDIR lies on /dev/shm where there is one: another file system than the runs'.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))

from commands import REPOSITORY, only_run
from whole_runs import assert_same_end

from crescendo.checkpoints import load_checkpoint
from crescendo.errors import UserError

TRAINING = (
    "data=synthetic",
    "data.source.samples=400",
    "data.batch_size=32",
    "model=efficientnet_b0",  # has dropout and drop path
    "model.width=0.25",
    "model.depth=0.5",
    "regularization=strong",
    "curriculum.stages=2",
    "curriculum.resolution.start=32",
    "curriculum.resolution.end=40",
    "callbacks=ema",
    "callbacks.checkpoint.every_n_steps=1",
    "logger=csv",
    "trainer=cpu",
    "trainer.max_epochs=4",
)
SIGNALS = {"kills": signal.SIGKILL, "terminations": signal.SIGTERM}
SETTINGS = {"kills": ("data.num_workers=2",), "terminations": ("trainer.devices=2",)}
LIMIT = 300.0  # seconds for anything
SHARED_MEMORY = Path("/dev/shm")


@dataclass
class Outcome:
    """What happened to one run.

    Attributes:
        codes: exit code of each interruption.
        seconds: from each signal to the end.
        partial: interruptions that left a half written checkpoint behind.
        unreadable: what could not be read after an interruption.
        difference: from the uninterrupted run; None without any.
    """

    codes: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    partial: int = 0
    unreadable: list[str] = field(default_factory=list)
    difference: str | None = None


def start(overrides: tuple[str, ...], place: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if SHARED_MEMORY.is_dir():
        environment["TMPDIR"] = str(SHARED_MEMORY)
    command = [sys.executable, str(REPOSITORY / "train.py"), *overrides]
    with (place / "output.txt").open("ab") as output:
        return subprocess.Popen(
            command, cwd=place, env=environment, stdout=output, stderr=output, start_new_session=True
        )


def newest_checkpoint(place: Path) -> float:
    """When it was written; 0 before the first. It may just be on its way from one name to the other."""
    times = [0.0]
    for path in place.rglob("*.ckpt"):
        with suppress(FileNotFoundError):
            times.append(path.stat().st_mtime)
    return max(times)


def wait_for_step(process: subprocess.Popen[bytes], place: Path, since: float) -> None:
    """Until a checkpoint newer than `since` is there, or the process has ended."""
    deadline = time.monotonic() + LIMIT
    while newest_checkpoint(place) <= since and process.poll() is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"no step in {place} within {LIMIT:g} s")
        time.sleep(0.005)


def interrupt(
    number: signal.Signals, overrides: tuple[str, ...], place: Path, moment: float, outcome: Outcome
) -> None:
    """Start or resume the run of a place, and send it a signal `moment` seconds after its next step."""
    since = newest_checkpoint(place)
    resume = ("resume=auto",) if since else ()
    process = start((*resume, *overrides), place)
    wait_for_step(process, place, since)
    time.sleep(moment)
    if process.poll() is not None:
        return  # it was faster
    begin = time.monotonic()
    if number == signal.SIGKILL:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    outcome.codes.append(process.wait(LIMIT))
    outcome.seconds.append(time.monotonic() - begin)
    run = only_run(place)
    outcome.partial += bool(list(run.rglob(".*.ckpt.partial")))
    for path in run.rglob("*.ckpt"):
        try:
            load_checkpoint(path)
        except UserError as error:
            outcome.unreadable.append(str(error))


def follow(
    number: signal.Signals, overrides: tuple[str, ...], place: Path, moments: list[float], whole: Path
) -> Outcome:
    """One run: interrupted at these moments, then resumed to its end, and compared."""
    outcome = Outcome()
    place.mkdir()
    for moment in moments:
        interrupt(number, overrides, place, moment, outcome)
    if not (only_run(place) / "summary.json").exists() or outcome.codes:
        code = start(("resume=auto", *overrides), place).wait(LIMIT)
        if code not in (0, 2):  # 2: it had finished before the signal came
            output = (place / "output.txt").read_text()
            outcome.difference = f"the resumed run ended with {code}\n{output[-2000:]}"
            return outcome
    try:
        assert_same_end(only_run(place), whole)
    except AssertionError as error:
        output = (place / "output.txt").read_text()
        outcome.difference = f"{error}\n{output[-1000:]}"
    return outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("kind", choices=SIGNALS)
    parser.add_argument("--count", type=int, required=True, help="interruptions")
    parser.add_argument("--jobs", type=int, default=1, help="runs beside each other")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    overrides, rng = (*TRAINING, *SETTINGS[arguments.kind]), random.Random(arguments.seed)
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory) / "whole"
        place.mkdir()
        process = start(overrides, place)
        wait_for_step(process, place, 0.0)
        begin = time.monotonic()
        if process.wait(LIMIT) != 0:
            sys.exit((place / "output.txt").read_text())
        whole, span = only_run(place), time.monotonic() - begin
        print(f"a run takes {span:.1f} s from its first step on", flush=True)

        def next_run(index: int) -> Outcome:
            moments = [rng.uniform(0, span) for _ in range(2 if index % 3 == 0 else 1)]
            return follow(SIGNALS[arguments.kind], overrides, place.with_name(str(index)), moments, whole)

        done = 0
        while done < arguments.count:
            with ThreadPoolExecutor(arguments.jobs) as pool:
                new = list(pool.map(next_run, range(len(outcomes), len(outcomes) + arguments.jobs)))
            outcomes += new
            done = sum(len(outcome.codes) for outcome in outcomes)
            print(
                f"{done} of {arguments.count}",
                *[each.difference for each in new if each.difference],
                flush=True,
            )
    report(outcomes)


def report(outcomes: list[Outcome]) -> None:
    """Print the figures; exit code 1 if a state was lost or a run ended otherwise."""
    codes = [code for outcome in outcomes for code in outcome.codes]
    seconds = [value for outcome in outcomes for value in outcome.seconds]
    unreadable = [text for outcome in outcomes for text in outcome.unreadable]
    different = [outcome.difference for outcome in outcomes if outcome.difference]
    print(f"{len(codes)} interruptions of {len(outcomes)} runs, exit codes {sorted(set(codes))}")
    print(f"seconds to the end: median {median(seconds):.1f}, at most {max(seconds):.1f}")
    print(f"{sum(outcome.partial for outcome in outcomes)} came while a checkpoint was written")
    print(f"{len(unreadable)} unreadable checkpoints", *unreadable, sep="\n  ")
    print(f"{len(different)} runs that ended otherwise", *different, sep="\n  ")
    sys.exit(bool(unreadable or different))


if __name__ == "__main__":
    main()
