"""What is good and wrong about one node; computed from facts alone."""

from bt_ray.config import Settings, override
from bt_ray.doctor.devices import Devices
from bt_ray.doctor.finding import Finding
from bt_ray.doctor.node import Disk, NodeFacts
from bt_ray.errors import LaunchError
from bt_ray.presets import preset
from bt_ray.training.preflight import check_cards

_LEAST_FILES, _USUAL_FILES = 4096, 8192
"""Ray warns below the first, and recommends the second."""
_LEAST_PROCESSES = 1000
"""A node's processes of Ray, and threads of torch and pyarrow in them."""
_GB, _MB = 1e9, 1e6
_LEAST_MEMORY, _LEAST_SHM = 2 * _GB, 1 * _GB
_STORE_OF_SHM = 0.95
"""Ray puts its object store on the disk instead where /dev/shm has less than this share of it."""
_FULL, _LEAST_DISK, _USUAL_DISK = 0.95, 1 * _GB, 5 * _GB
"""Ray makes no object and no file on a disk that is fuller than the first."""
_DRIVERS = {11: "450.80", 12: "525.60", 13: "580.65"}
"""The oldest driver for Linux that runs programs of a major version of CUDA."""


def judge_node(node: NodeFacts) -> list[Finding]:
    """A finding for each thing about this node."""
    return [
        judge_devices(node.place, node.devices),
        judge_memory(node),
        judge_shm(node),
        judge_files(node),
        judge_processes(node),
        *(judge_disk(node.place, disk) for disk in node.disks),
    ]


def judge_devices(place: str, devices: Devices) -> Finding:
    """Whether torch can use the node's GPUs."""
    found = _devices_in_words(devices)
    if (advice := _fault_of_devices(place, devices)) is not None:
        return Finding(check="devices", place=place, found=found, state="wrong", advice=advice)
    ray, here = devices.known_to_ray, len(devices.cards)
    if ray is not None and ray < here:
        advice = (
            f"Ray gives workers {ray:g} of the {here} GPUs of {place}: leave --num-gpus out of "
            "`ray start` there if all are meant."
        )
        return Finding(check="devices", place=place, found=found, state="note", advice=advice)
    return Finding(check="devices", place=place, found=found)


def _devices_in_words(devices: Devices) -> str:
    if not devices.cards:
        return "no GPU"
    made_for = "CPUs alone" if devices.torch_cuda is None else f"CUDA {devices.torch_cuda}"
    names = [card.name for card in devices.cards]
    cards = ", ".join(f"{names.count(name)} × {name}" for name in dict.fromkeys(names))
    cuda = f" (CUDA {devices.driver_cuda})" if devices.driver_cuda else ""
    return f"{cards}; driver {devices.driver}{cuda}; torch for {made_for}"


def _fault_of_devices(place: str, devices: Devices) -> str | None:
    """What keeps torch from the GPUs, and the way out; none if nothing does."""
    if devices.fault is not None:
        return (
            f"The driver of {place} does not name its GPUs ({devices.fault}): install or load "
            "NVIDIA's driver, and give a container its GPUs, until `nvidia-smi` lists them."
        )
    if devices.known_to_ray is not None and devices.known_to_ray > len(devices.cards):
        return (
            f"Ray says that {place} has {devices.known_to_ray:g} GPUs, and the driver has "
            f"{len(devices.cards)}: correct --num-gpus of `ray start` there, or the driver."
        )
    if not devices.cards:
        return None
    if devices.torch_cuda is None:
        return (
            f"torch on {place} computes on CPUs alone: install the torch of requirements.lock, "
            "which is made for CUDA, there."
        )
    needed, known = _major(devices.torch_cuda), _major(devices.driver_cuda)
    if needed is not None and known is not None and known < needed:
        driver = _DRIVERS.get(needed)
        return (
            f"The driver {devices.driver} of {place} knows CUDA {devices.driver_cuda}, and torch "
            f"is made for {devices.torch_cuda}: install "
            f"{'a newer driver' if driver is None else f'driver {driver} or newer'}, or a torch "
            f"made for CUDA {known}."
        )
    try:
        check_cards(devices.cards, _any_multi_gpu_run())
    except LaunchError as error:
        return str(error)
    return None


def _any_multi_gpu_run() -> Settings:
    """Settings that every kind of GPU can carry out."""
    return override(preset("imagenet_1000"), {"training.precision": "fp16"})


def _major(version: str | None) -> int | None:
    first = (version or "").partition(".")[0]
    return int(first) if first.isdigit() else None


def judge_memory(node: NodeFacts) -> Finding:
    """Whether there is memory for a worker."""
    found = f"{node.memory_bytes / _GB:.1f} GB"
    if node.memory_bytes >= _LEAST_MEMORY:
        return Finding(check="memory", place=node.place, found=found)
    advice = (
        f"{node.place} may use {found} of memory, and a worker with its data needs "
        f"{_LEAST_MEMORY / _GB:.0f} GB at least: raise the container's memory limit."
    )
    return Finding(check="memory", place=node.place, found=found, state="wrong", advice=advice)


def judge_shm(node: NodeFacts) -> Finding:
    """Whether shared memory holds Ray's object store."""
    place, check = node.place, "shared memory"
    if node.shm_bytes is None:
        return Finding(
            check=check, place=place, found="no /dev/shm", state="note",
            advice=f"{place} has no /dev/shm: Ray keeps what tasks hand on in files, which is "
            "slower.",
        )  # fmt: skip
    needed = _LEAST_SHM if node.store_bytes is None else node.store_bytes * _STORE_OF_SHM
    found = f"/dev/shm {_size(node.shm_bytes)}"
    if node.store_bytes is not None:
        found += f", object store {_size(node.store_bytes)}"
    if node.shm_bytes >= needed:
        return Finding(check=check, place=place, found=found)
    advice = (
        f"/dev/shm of {place} has {_size(node.shm_bytes)}, and Ray's object store needs "
        f"{_size(needed)}: start the container with `--shm-size`, on Kubernetes with an emptyDir "
        "of medium Memory at /dev/shm, or give `ray start` a smaller --object-store-memory."
    )
    return Finding(check=check, place=place, found=found, state="wrong", advice=advice)


def judge_files(node: NodeFacts) -> Finding:
    """Whether processes may open as many files and connections as Ray's do."""
    limit = node.open_files
    found = "any number" if limit is None else f"{limit:,}"
    if limit is None or limit >= _USUAL_FILES:
        return Finding(check="open files", place=node.place, found=found)
    advice = (
        f"A process on {node.place} may open {found} files, and Ray's want {_USUAL_FILES:,}: say "
        "`ulimit -n 65536` before `ray start`, or raise the container's nofile limit."
    )
    if limit < _LEAST_FILES:
        return Finding(
            check="open files", place=node.place, found=found, state="wrong", advice=advice
        )
    return Finding(check="open files", place=node.place, found=found, state="note", advice=advice)


def judge_processes(node: NodeFacts) -> Finding:
    """Whether Ray may start its processes and threads."""
    free = node.free_processes
    found = "any number" if free is None else f"{free:,} more"
    if free is None or free >= _LEAST_PROCESSES:
        return Finding(check="processes", place=node.place, found=found)
    advice = (
        f"{max(free, 0):,} more processes and threads may be started on {node.place}, and Ray "
        f"with torch needs {_LEAST_PROCESSES:,}: raise `ulimit -u`, or the container's limit of "
        "pids."
    )
    return Finding(check="processes", place=node.place, found=found, state="wrong", advice=advice)


def judge_disk(place: str, disk: Disk) -> Finding:
    """Whether there is room where something is written."""
    free = disk.free_bytes
    found = f"{disk.purpose}: {_size(free)} free in {disk.folder}"
    is_full = disk.total_bytes > 0 and free < (1 - _FULL) * disk.total_bytes
    if free >= _USUAL_DISK and not is_full:
        return Finding(check="disk", place=place, found=found)
    advice = (
        f"{_size(free)} are free for {disk.purpose} in {disk.folder} on {place}: make room there, "
        "or name another disk by TMPDIR, by --temp-dir of `ray start`, or by --storage."
    )
    if free < _LEAST_DISK or (is_full and free < _USUAL_DISK):
        return Finding(check="disk", place=place, found=found, state="wrong", advice=advice)
    return Finding(check="disk", place=place, found=found, state="note", advice=advice)


def _size(num_bytes: float) -> str:
    return f"{num_bytes / _GB:.1f} GB" if num_bytes >= _GB else f"{num_bytes / _MB:.0f} MB"
