"""How much memory a training could still take: of a GPU, or of the machine within a container's limits."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from crescendo.errors import UserError


class _Cgroup(NamedTuple):
    """A version of Linux's control groups: its files, and its name for what gives way, a cache of files."""

    limit: str
    usage: str
    cache: str


VERSION_1 = _Cgroup("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
VERSION_2 = _Cgroup("memory.max", "memory.current", "inactive_file")


def free_memory(device: torch.device) -> int:
    """Bytes that this process could allocate on a device beside what it has.

    Raises:
        UserError: it is neither a CUDA GPU nor a CPU under Linux.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(device)
        allowed = int(torch.cuda.get_per_process_memory_fraction(device) * total)
        return min(free, allowed - torch.cuda.memory_reserved(device))
    if device.type == "cpu":
        return free_on_host()
    raise UserError(f"the free memory of {device} is not known: only that of CUDA GPUs and of CPUs is.")


def free_on_host(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that programs could still take without swapping, all of them together.

    What Linux calls available (free, and caches that give way), or less, where a control group of this
    process or one around it ends before.

    Raises:
        UserError: the system is not Linux.
    """
    try:
        lines = (proc / "meminfo").read_text().splitlines()
    except FileNotFoundError as error:
        raise UserError(f"the free memory of this machine is not known: it has no {proc}/meminfo.") from error
    kibibytes = next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    left = [int(kibibytes) * 1024, *_left_in_groups(proc / "self" / "cgroup", cgroups)]
    return max(0, min(left))


def _left_in_groups(own: Path, mount: Path) -> Iterator[int]:
    """Bytes, of each group from this process's up to the root that has a limit.

    In a container the inner groups may not be there: then the root is the container's own.
    """
    for line in own.read_text().splitlines() if own.exists() else ():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            root, version = mount / "memory", VERSION_1
        elif not controllers:
            root, version = mount, VERSION_2
        else:
            continue
        place = root / path.lstrip("/")
        for group in [place, *place.parents]:
            if (group / version.limit).exists():
                limit = (group / version.limit).read_text().strip()
                if limit != "max":
                    usage = int((group / version.usage).read_text())
                    statistics = dict(
                        entry.split() for entry in (group / "memory.stat").read_text().splitlines()
                    )
                    yield int(limit) - usage + int(statistics[version.cache])
            if group == root:
                break
