"""One directory for all ranks of a run that torchrun or srun started: Lightning cannot tell those."""

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch.distributed
from lightning.pytorch.utilities import rank_zero_only
from torch.distributed import TCPStore

from crescendo.runs import make_directory, new_directory

WAIT = timedelta(minutes=5)  # for rank 0, which may still be importing


def is_rank_zero() -> bool:
    """Whether this process is the one that writes."""
    rank: int = rank_zero_only.rank  # type: ignore[attr-defined]  # a function that carries it
    return rank == 0


def shared_choice(choose: Callable[[], Path], *, rank_zero: bool) -> Path:
    """The directory that rank 0 chooses, on every rank that torchrun started or that a probe brought up;
    elsewhere each rank chooses.
    """
    environment = os.environ
    if torch.distributed.is_initialized():
        chosen = [choose().absolute() if rank_zero else None]
        torch.distributed.broadcast_object_list(chosen)
        assert chosen[0] is not None
        return chosen[0]
    if environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return choose()
    store = TCPStore(environment["MASTER_ADDR"], int(environment["MASTER_PORT"]), timeout=WAIT)
    attempt = f"crescendo/run_directory/{environment.get('TORCHELASTIC_RESTART_COUNT', 0)}"
    if not rank_zero:
        return Path(store.get(attempt).decode())
    directory = choose().absolute()
    store.set(attempt, str(directory))
    return directory


def new_run_directory(parent: Path, *, rank_zero: bool) -> Path:
    """A new directory below `parent`. The tasks of an srun know its name; the first makes it."""
    environment = os.environ
    if int(environment.get("SLURM_NTASKS", 1)) > 1 and "SLURM_STEP_ID" in environment:
        names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
        directory = parent / "_".join(["slurm", *(environment.get(name, "0") for name in names)])
        return make_directory(directory) if rank_zero else directory
    return new_directory(parent)
