"""What a machine, and the process that looks, are like: versions, limits, memory, disks."""

import hashlib
import importlib.metadata
import os
import platform
import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

import bt_ray
from bt_ray.doctor.devices import Devices, look_at_devices

_PACKAGES = ("torch", "torchvision", "ray", "pyarrow", "numpy", "mlflow")
_UNLIMITED = 2**60  # bytes; cgroup v1 writes "no limit" as a huge number
_SHM = Path("/dev/shm")


@dataclass(frozen=True, kw_only=True)
class Disk:
    """The disk that a folder lies on."""

    purpose: str
    """What is written there."""
    folder: str
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True, kw_only=True)
class NodeFacts:
    """A node as a process on it sees it."""

    place: str
    """What people call it: its address in the cluster, or this machine's name."""
    address: str | None
    """Its address in the cluster; none if there is no cluster."""
    versions: dict[str, str]
    """Of Python, of this package's code and of the packages that results rest on."""
    devices: Devices
    memory_bytes: int
    """Of the machine, or what its container may use."""
    shm_bytes: int | None
    """Size of /dev/shm; none if there is none."""
    store_bytes: int | None
    """Ray's object store; none without Ray."""
    open_files: int | None
    """How many a process may have open; none: any number."""
    free_processes: int | None
    """How many more the user, or the container, may start; none: any number."""
    disks: tuple[Disk, ...]
    interface: str | None
    """Network interface that has the node's address."""


def look_at_node(
    place: str, address: str | None, store_bytes: int | None, folders: dict[str, str]
) -> NodeFacts:
    """This machine's facts.

    Args:
      place: what people call it.
      address: the node's in the cluster.
      store_bytes: of its object store.
      folders: by purpose, whose disks are looked at besides that of temporary files.
    """
    return NodeFacts(
        place=place,
        address=address,
        versions=versions(),
        devices=look_at_devices(place),
        memory_bytes=memory_bytes(),
        shm_bytes=shutil.disk_usage(_SHM).total if _SHM.is_dir() else None,
        store_bytes=store_bytes,
        open_files=_limit("RLIMIT_NOFILE"),
        free_processes=free_processes(),
        disks=tuple(
            disk
            for purpose, folder in {"temporary files": tempfile.gettempdir(), **folders}.items()
            if (disk := look_at_disk(purpose, folder)) is not None
        ),
        interface=None if address is None else interface_of(address),
    )


def versions() -> dict[str, str]:
    """What must be equal on all nodes, by name."""
    return {
        "python": platform.python_version(),
        "bt_ray": f"{bt_ray.__version__}, code {code_digest()}",
        **{name: _version(name) for name in _PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


@cache
def code_digest() -> str:
    """Eight digits that differ where this package's code does."""
    root = Path(bt_ray.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:8]


def memory_bytes(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory that this process may use: the container's limit, or else the machine's."""
    total = int(psutil.virtual_memory().total)
    limits = (_number(cgroup / name) for name in ("memory.max", "memory/memory.limit_in_bytes"))
    return min([total, *(limit for limit in limits if limit is not None and limit < _UNLIMITED)])


def free_processes(cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """How many more processes and threads may be started, by the user's and the cgroup's limit."""
    free = []
    if (limit := _limit("RLIMIT_NPROC")) is not None and os.getuid() != 0:
        free.append(limit - _own_threads())
    for folder in (cgroup, cgroup / "pids"):
        if (most := _number(folder / "pids.max")) is not None:
            free.append(most - (_number(folder / "pids.current") or 0))
    return min(free, default=None)


def _own_threads() -> int:
    """Threads of this user's processes, which count against the user's limit."""
    mine = os.getuid()
    processes = psutil.process_iter(["uids", "num_threads"])
    return sum(
        p.info["num_threads"] or 1
        for p in processes
        if p.info["uids"] and p.info["uids"][0] == mine
    )


def _limit(name: str) -> int | None:
    """This process's soft limit, such as RLIMIT_NOFILE; none where systems have no such thing."""
    try:
        import resource
    except ImportError:
        return None
    kind = getattr(resource, name, None)
    soft = resource.RLIM_INFINITY if kind is None else resource.getrlimit(kind)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def _number(file: Path) -> int | None:
    """The number in a cgroup's file; none if there is no such file, or it says "max"."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def look_at_disk(purpose: str, folder: str) -> Disk | None:
    """The disk of a folder, or of what exists on the way to it; none if that cannot be seen."""
    path = Path(folder).expanduser().absolute()
    try:
        nearest = next(place for place in (path, *path.parents) if place.exists())
        usage = shutil.disk_usage(nearest)
    except OSError:
        return None
    return Disk(purpose=purpose, folder=folder, total_bytes=usage.total, free_bytes=usage.free)


def interface_of(address: str) -> str | None:
    """Name of the network interface that has this address."""
    for name, entries in psutil.net_if_addrs().items():
        if any(entry.address == address for entry in entries):
            return str(name)
    return None
