"""One directory for all ranks of a run that torchrun or srun started: Lightning cannot tell those."""

import os
from datetime import timedelta
from pathlib import Path

from torch.distributed import TCPStore

from crescendo.runs import make_directory, new_directory

WAIT = timedelta(minutes=5)  # for rank 0, which may still be importing


def shared_directory(parent: Path, *, rank_zero: bool) -> Path:
    """The directory below `parent` that rank 0 makes for this run, the same path on every rank."""
    environment = os.environ
    if environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        store = TCPStore(environment["MASTER_ADDR"], int(environment["MASTER_PORT"]), timeout=WAIT)
        attempt = f"crescendo/run_directory/{environment.get('TORCHELASTIC_RESTART_COUNT', 0)}"
        if not rank_zero:
            return Path(store.get(attempt).decode())
        directory = new_directory(parent).absolute()
        store.set(attempt, str(directory))
        return directory
    if int(environment.get("SLURM_NTASKS", 1)) > 1 and "SLURM_STEP_ID" in environment:
        names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
        directory = parent / "_".join(["slurm", *(environment.get(name, "0") for name in names)])
        return make_directory(directory) if rank_zero else directory
    return new_directory(parent)
