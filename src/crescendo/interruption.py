"""A training that is told to end: it saves at its next optimizer step, and goes on from there when resumed.

Lightning's own handler of SIGTERM broadcasts to the other ranks from inside the handler, which deadlocks
where they are in another collective. Here a handler only takes note; the ranks agree between two steps.
"""

import logging
import math
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
import torch.distributed
from lightning.pytorch.callbacks import Checkpoint, WeightAveraging

from crescendo.checkpoints import BestCheckpoint
from crescendo.errors import EXIT_CODE, Interrupted
from crescendo.runs import REQUEUED
from crescendo.storage import write_whole
from crescendo.validation import StatisticsRefresh

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
REQUEUE = signal.SIGUSR1  # sbatch --signal=USR1@90: the time of a SLURM job is nearly over

LOST_SECONDS = 10.0  # that rank 0 has to end by itself when another rank is gone

log = logging.getLogger(__name__)


class Signals:
    """Which signal told this process to end. The first is noted, or raised; the second ends it at once.

    Attributes:
        told: the first signal; None so far.
        awaited: somebody looks at `told` soon; else the signal is raised where it arrives.
        agreed: all ranks end by themselves, at the same step.
        children: processes of this run's other ranks.
    """

    def __init__(self, seconds: float) -> None:
        self.told: signal.Signals | None = None
        self.awaited = False
        self.agreed = False
        self.children: list[subprocess.Popen[bytes]] = []
        self._seconds = seconds

    def handle(self, number: int, frame: FrameType | None = None) -> None:
        """Python's handler: it waits until the main thread runs Python, which it may not for long."""
        self.told = self.told or signal.Signals(number)
        if not self.awaited:
            raise Interrupted(self.told)

    def listen(self, pipe: int) -> None:
        """Read the signals' numbers where the system writes them at once, whatever the main thread does."""
        first = True
        while byte := os.read(pipe, 1):
            number = signal.Signals(byte[0])
            if number not in (*STOPPING, REQUEUE):
                continue  # such as a loader worker's end
            if not first:
                self._end(f"{number.name} again: ended at once")
            first, self.told = False, self.told or number
            why = f"{number.name}: not ended after stop_seconds={self._seconds:g}, now it is"
            limit = threading.Timer(self._seconds, self._end, [why])
            limit.daemon = True
            limit.start()
        os.close(pipe)

    def _end(self, why: str) -> None:
        """Without any cleaning up: what is on the disk is whole at any moment."""
        assert self.told is not None
        os.write(2, f"{why}\n".encode())
        self.kill_children()
        os._exit(128 + self.told)

    def watch(self, children: list[subprocess.Popen[bytes]]) -> None:
        """Take the other ranks' processes over from Lightning, which kills rank 0 where one of them fails.

        Rank 0 has LOST_SECONDS to notice, and to say in its summary how the run ended.
        """
        if children:
            self.children, children[:] = [*children], []
            threading.Thread(target=self._wait_for_a_loss, daemon=True).start()

    def lost_rank(self, seconds: float = 0.0) -> str | None:
        """Which other rank has ended badly, and how, or does so within a time; None if none does."""
        deadline = time.monotonic() + seconds
        while True:
            for rank, process in enumerate(self.children, start=1):
                code = process.poll()
                if code:
                    return f"rank {rank} ended with " + (f"signal {-code}" if code < 0 else f"code {code}")
            if not self.children or time.monotonic() >= deadline:
                return None
            time.sleep(0.1)

    def _wait_for_a_loss(self) -> None:
        lost = self.lost_rank(math.inf)
        time.sleep(LOST_SECONDS)
        if lost and self.children:  # rank 0 still waits for it
            os.write(2, f"error: {lost}\n".encode())
            self.kill_children()
            os._exit(EXIT_CODE)

    def kill_children(self) -> None:
        while self.children:
            self.children.pop().kill()


@contextmanager
def signals_noted(seconds: float) -> Iterator[Signals]:
    """Take note of the signals that end a process; one that was ignored (nohup) stays so.

    Args:
        seconds: that the process has to end after the first.
    """
    noted = Signals(seconds)
    if threading.current_thread() is not threading.main_thread():
        yield noted  # Python handles signals in the main thread alone
        return
    numbers = [*STOPPING, REQUEUE] if "SLURM_JOB_ID" in os.environ else STOPPING
    before = {number: signal.getsignal(number) for number in numbers}
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    listener = threading.Thread(target=noted.listen, args=[reading], daemon=True)
    listener.start()
    earlier_pipe = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number, earlier in before.items():
        if earlier is not signal.SIG_IGN:
            signal.signal(number, noted.handle)
    try:
        yield noted
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
        signal.set_wakeup_fd(earlier_pipe)
        os.close(writing)


class Interruption(Checkpoint):
    """Ends the training at the first moment where a checkpoint loses nothing.

    That is after an optimizer step, between two batches of the validation, or at an epoch's end. Several
    ranks end at the same one: each step starts a reduction of what they were told on the CPU, and reads
    that of the step before, so that no device is waited for.

    It is a Checkpoint so that Lightning calls it last, when the other callbacks have seen the step.

    Raises:
        Interrupted: on every rank, once the state is saved.
    """

    def __init__(self, signals: Signals, checkpoint: BestCheckpoint, run: Path) -> None:
        self.signals, self.checkpoint, self.run = signals, checkpoint, run
        self._agreed = 0  # the signal's number
        self._group: Any = None
        self._under_way: tuple[torch.Tensor, Any] | None = None
        self._steps = self._shared_batches = 0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Keep Lightning from setting its handlers, and from asking all ranks for SIGTERM at every batch."""
        trainer._signal_connector.register_signal_handlers = _nothing  # type: ignore[method-assign]
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _nothing  # type: ignore[method-assign]
        self.signals.watch(getattr(trainer.strategy.launcher, "procs", []))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.world_size > 1:
            self._group = torch.distributed.new_group(backend="gloo")
        self._steps = trainer.global_step
        self.signals.awaited = True

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        told = self._agree()
        stepped, self._steps = trainer.global_step != self._steps, trainer.global_step
        if told and stepped and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self.checkpoint.save_now(trainer)
            self._end(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        batches = torch.tensor(sum(trainer.num_val_batches))
        if self._group is not None:
            torch.distributed.all_reduce(batches, torch.distributed.ReduceOp.MIN, group=self._group)
        self._shared_batches = int(batches)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit" or batch_idx >= self._shared_batches:
            return
        if self._agree():
            for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set by Lightning's connector
                if isinstance(callback, StatisticsRefresh):  # it comes before the averages
                    callback.put_back(pl_module)
                if isinstance(callback, WeightAveraging):  # validates the averages in the weights' place
                    callback.on_validation_epoch_end(trainer, pl_module)
            self.checkpoint.save_now(trainer, inside_validation=True)
            self._end(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._agree():  # the checkpoint is written by now
            self._end(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.signals.awaited = False
        self._agreed = self._agreed or self._read()
        if self._agreed or (self._group is None and self.signals.told):
            self._end(trainer)

    def _agree(self) -> int:
        """The signal that a rank was told, the same on all ranks; 0 for none."""
        if self._group is None:
            self._agreed = int(self.signals.told or 0)
        elif not self._agreed:
            self._agreed = self._read()
            flag = torch.tensor(int(self.signals.told or 0))
            work = torch.distributed.all_reduce(
                flag, torch.distributed.ReduceOp.MAX, group=self._group, async_op=True
            )
            self._under_way = (flag, work)
        return self._agreed

    def _read(self) -> int:
        if self._under_way is None:
            return 0
        flag, work = self._under_way
        work.wait()
        self._under_way = None
        return int(flag)

    def _end(self, trainer: L.Trainer) -> None:
        self._read()
        self.signals.agreed = True
        number = signal.Signals(self._agreed or self.signals.told or 0)
        if trainer.is_global_zero:
            log.info(
                "%s: saved after step %d. To go on: python train.py resume=%s",
                number.name,
                trainer.global_step,
                shlex.quote(str(self.run)),
            )
            if number == REQUEUE:
                requeue(self.run)
            raise Interrupted(number)
        sys.exit(0)  # rank 0 says how the run ended


def requeue(run: Path) -> None:
    """Have SLURM start this job again, to go on with `run`."""
    job = os.environ["SLURM_JOB_ID"]
    write_whole(run / REQUEUED, job)
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    name = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else job
    try:
        subprocess.run(["scontrol", "requeue", name], check=True, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or error
        log.warning("SLURM job %s could not be requeued: %s", name, str(said).strip())
    else:
        log.info("SLURM job %s is requeued", name)


def _nothing() -> None:
    """In place of Lightning's."""
