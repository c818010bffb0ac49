"""How many CPUs this process may use: those of its affinity, no more than its cgroups allow.

In a container, a Slurm step or a pod that is far fewer than the machine has, and threads for all of
them would only take turns.
"""

import math
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_CGROUPS, _OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def available_cpus() -> int:
    """CPUs that this process may use, at least one.

    A quota of part of a CPU counts as a whole one: 1.5 CPUs are two.
    """
    return max(1, min(affine_cpus(), _quota(_CGROUPS, _OWN_CGROUPS)))


def affine_cpus() -> int:
    """CPUs that the scheduler may place this process on (`taskset`, cpusets)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def _quota(root: Path, own: Path) -> int:
    """The least CPU time over time that a cgroup of this process allows, rounded up."""
    least = math.inf
    for folder in _folders(root, own):
        least = min(least, _limit(folder))
    return 2**31 if least == math.inf else math.ceil(least)


def _folders(root: Path, own: Path) -> Iterator[Path]:
    """Folders of this process's cgroups and of all above them, of both versions.

    Inside a container the own path may be one of the host, which is not there: its root is.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            tops = [root, root / "unified"]
        elif "cpu" in controllers.split(","):
            tops = [root / controllers, root / "cpu", root / "cpu,cpuacct"]
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for top in tops:
            for depth in range(len(parts) + 1):
                yield top.joinpath(*parts[:depth])


def _limit(folder: Path) -> float:
    """CPUs that this cgroup allows; infinite without a limit."""
    try:
        file = folder / "cpu.max"
        if file.is_file():
            quota, _, period = file.read_text().strip().partition(" ")
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        share = int(quota) / int(period or 100_000)
    except (OSError, ValueError, ZeroDivisionError):  # "max", or not there
        return math.inf
    return share if share > 0 else math.inf
