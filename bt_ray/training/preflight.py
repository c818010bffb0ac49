"""Whether the GPUs that a run gets can carry it out, said before it starts."""

import os
import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass

import psutil
import torch

from bt_ray.config import Settings
from bt_ray.errors import LaunchError
from bt_ray.precision import BF16_SINCE

_INTERFACES = "NCCL_SOCKET_IFNAME"


@dataclass(frozen=True, kw_only=True)
class Card:
    """A GPU, and what the machine brings with it."""

    machine: str
    name: str
    capability: tuple[int, int]
    """Compute capability, such as (7, 0) of a V100."""
    torch_version: str
    torch_code: tuple[str, ...]
    """Architectures that torch has code for, such as sm_80 or compute_120."""
    interfaces: tuple[str, ...]
    """Names of the machine's network interfaces."""
    wanted_interfaces: str | None
    """Those that NCCL is told to use (NCCL_SOCKET_IFNAME)."""
    memory_bytes: int | None = None
    """Of the GPU; none if nobody asked."""


def examine() -> Card:
    """The GPU that this process computes on."""
    return Card(
        machine=platform.node(),
        name=torch.cuda.get_device_name(),
        capability=torch.cuda.get_device_capability(),
        torch_version=torch.__version__,
        torch_code=tuple(torch.cuda.get_arch_list()),
        interfaces=tuple(psutil.net_if_addrs()),
        wanted_interfaces=os.environ.get(_INTERFACES),
        memory_bytes=torch.cuda.get_device_properties().total_memory,
    )


def look_for_card() -> Card | str:
    """The GPU that this process holds by Ray's count; the machine's name if torch finds none."""
    return examine() if torch.cuda.is_available() else platform.node()


def check_cards(cards: Iterable[Card], settings: Settings) -> None:
    """Raises LaunchError, in one sentence, for the first card that cannot carry out the run."""
    for card in cards:
        place = f"{card.name} on {card.machine}"
        if not _has_code(card):
            raise LaunchError(
                f"torch {card.torch_version} has no code for the {place} (sm_"
                f"{card.capability[0]}{card.capability[1]}; it has {' '.join(card.torch_code)}): "
                "install a torch that has it, for V100s that of requirements-volta.lock."
            )
        if settings.training.precision == "bf16" and card.capability < BF16_SINCE:
            raise LaunchError(
                f"training.precision=bf16 is emulated on the {place}, many times slower: "
                "leave --training.precision out, or use fp16. A run that began with bf16 keeps it, "
                "and goes on where GPUs have it."
            )
        if settings.scaling.max_workers > 1 and not _finds_interface(card):
            raise LaunchError(
                f"{_INTERFACES}={card.wanted_interfaces} names no network interface of "
                f"{card.machine}, which has {', '.join(card.interfaces)}: set it to one of them, "
                "or leave it out."
            )


def _has_code(card: Card) -> bool:
    """Binary code runs on later minor versions of its major one, PTX on everything later.

    That of an architecture with a letter (sm_90a) runs on the very same alone.
    """
    major, minor = card.capability
    for name in card.torch_code:
        found = re.fullmatch(r"(sm|compute)_(\d+)(\d)([a-z]?)", name)
        if found is None:
            continue
        kind, letter = found[1], found[4]
        theirs = (int(found[2]), int(found[3]))
        if theirs == (major, minor) or (
            not letter and theirs <= (major, minor) and (kind == "compute" or theirs[0] == major)
        ):
            return True
    return False


def _finds_interface(card: Card) -> bool:
    """Whether a machine has an interface that NCCL is told to use.

    NCCL takes prefixes, whole names after "=", and names to leave out after "^".
    """
    wanted = card.wanted_interfaces
    if not wanted:
        return True
    excludes = wanted.startswith("^")
    rest = wanted.removeprefix("^")
    is_exact = rest.startswith("=")
    names = [name for name in rest.removeprefix("=").split(",") if name]

    def is_named(interface: str) -> bool:
        return interface in names if is_exact else interface.startswith(tuple(names))

    return any(is_named(interface) != excludes for interface in card.interfaces)
