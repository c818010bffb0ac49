"""The GPUs of a machine and their driver, seen without taking any of them.

torch is imported where there are GPUs alone: elsewhere its import would take all of the time.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from bt_ray.training.preflight import Card

_QUERY = "name,compute_cap,driver_version,memory.total"
_LIMIT_S = 15.0
_WANTED_INTERFACES = "NCCL_SOCKET_IFNAME"


@dataclass(frozen=True, kw_only=True)
class Devices:
    """GPUs, and what torch can do with them."""

    cards: tuple["Card", ...] = ()
    memory_mb: tuple[int, ...] = ()
    """Of each card."""
    driver: str | None = None
    """The driver's version; none without one."""
    driver_cuda: str | None = None
    """The newest CUDA that the driver knows, such as 12.4."""
    torch_cuda: str | None = None
    """The CUDA that torch was made for; none if it computes on CPUs alone."""
    fault: str | None = None
    """What the driver said instead of naming its cards."""
    known_to_ray: float | None = None
    """How many GPUs Ray gives to workers here; none without Ray."""


def look_at_devices(machine: str) -> Devices:
    """What the driver's own tool says, which sees cards that other processes have taken."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        has_device = any(Path("/dev").glob("nvidia[0-9]*"))
        fault = "there are /dev/nvidia* devices, but no nvidia-smi" if has_device else None
        return Devices(fault=fault)
    try:
        listed = _run(tool, f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits")
        banner = _run(tool)
    except (OSError, subprocess.SubprocessError) as error:
        return Devices(fault=_words(error))
    return read_devices(machine, listed, banner)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_LIMIT_S)
    return done.stdout


def _words(error: Exception) -> str:
    """What nvidia-smi said when it failed, in one line."""
    if isinstance(error, subprocess.TimeoutExpired):
        return f"nvidia-smi did not answer in {_LIMIT_S:g} s"
    said = (getattr(error, "stdout", None) or "") + (getattr(error, "stderr", None) or "")
    return f"nvidia-smi: {' '.join(said.split()) or error}"


def read_devices(machine: str, listed: str, banner: str) -> Devices:
    """The devices of nvidia-smi's answers.

    Args:
      listed: a line a card, of name, compute capability, driver and memory.
      banner: what it prints when it is asked nothing, which names the driver's CUDA.
    """
    import torch

    from bt_ray.training.preflight import Card

    cards, memory, driver = [], [], None
    for line in listed.splitlines():
        name, capability, driver, megabytes = (part.strip() for part in line.split(","))
        major, _, minor = capability.partition(".")
        cards.append(
            Card(
                machine=machine,
                name=name,
                capability=(int(major), int(minor)),
                torch_version=torch.__version__,
                torch_code=_torch_code(),
                interfaces=tuple(psutil.net_if_addrs()),
                wanted_interfaces=os.environ.get(_WANTED_INTERFACES),
            )
        )
        memory.append(int(megabytes) if megabytes.isdigit() else 0)
    _, found, rest = banner.partition("CUDA Version:")
    return Devices(
        cards=tuple(cards),
        memory_mb=tuple(memory),
        driver=driver,
        driver_cuda=rest.split()[0] if found else None,
        torch_cuda=torch.version.cuda,
    )


def _torch_code() -> tuple[str, ...]:
    """Architectures that torch has code for, also where this process may use no GPU."""
    import torch

    flags = torch._C._cuda_getArchFlags() if hasattr(torch._C, "_cuda_getArchFlags") else None
    return tuple((flags or "").split())
