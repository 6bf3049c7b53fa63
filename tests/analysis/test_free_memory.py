"""What is left of the machine's memory, as Linux tells it."""

import pytest
import torch

from crescendo.analysis.free_memory import free_memory, free_on_host
from crescendo.errors import UserError

MIB = 2**20


def machine(place, cgroups, **files):
    """A /proc with 100 MiB available, and a /sys/fs/cgroup with these files; their paths."""
    proc, mount = place / "proc", place / "cgroup"
    (proc / "self").mkdir(parents=True)
    mount.mkdir()
    (proc / "meminfo").write_text(f"MemTotal: 9 kB\nMemFree: 8 kB\nMemAvailable: {100 * 1024} kB\n")
    (proc / "self" / "cgroup").write_text(cgroups)
    for name, text in files.items():
        file = mount / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return proc, mount


def group(place, limit, usage, cache):
    """A group of version 2, in bytes."""
    return {
        f"{place}memory.max": f"{limit}\n",
        f"{place}memory.current": f"{usage}\n",
        f"{place}memory.stat": f"anon 5\ninactive_file {cache}\n",
    }


def test_without_limits_it_is_what_linux_calls_available(tmp_path):
    assert free_on_host(*machine(tmp_path, "0::/user\n", **group("user/", "max", MIB, 0))) == 100 * MIB


def test_the_tightest_group_counts_and_caches_give_way(tmp_path):
    files = group("jobs/", 80 * MIB, 50 * MIB, 10 * MIB) | group("jobs/mine/", 70 * MIB, MIB, 0)
    assert free_on_host(*machine(tmp_path, "0::/jobs/mine\n", **files)) == 40 * MIB


def test_in_a_container_the_root_is_its_own(tmp_path):
    """The path of the group is the host's."""
    files = group("", 30 * MIB, 10 * MIB, 0)
    assert free_on_host(*machine(tmp_path, "0::/docker/4f2a\n", **files)) == 20 * MIB


def test_version_1(tmp_path):
    files = {
        "memory/job/memory.limit_in_bytes": f"{64 * MIB}",
        "memory/job/memory.usage_in_bytes": f"{60 * MIB}",
        "memory/job/memory.stat": f"inactive_file 1\ntotal_inactive_file {6 * MIB}\n",
    }
    proc, mount = machine(tmp_path, "4:memory:/job\n3:cpu,cpuacct:/\n", **files)
    assert free_on_host(proc, mount) == 10 * MIB
    (mount / "memory/job/memory.usage_in_bytes").write_text(f"{99 * MIB}")
    assert free_on_host(proc, mount) == 0  # the limit was lowered since


def test_another_system_is_refused(tmp_path):
    with pytest.raises(UserError, match="the free memory of this machine is not known"):
        free_on_host(tmp_path, tmp_path)


def test_this_machine_has_some_left_and_other_devices_are_refused():
    assert free_memory(torch.device("cpu")) > MIB
    with pytest.raises(UserError, match="meta is not known"):
        free_memory(torch.device("meta"))
