"""How fast nodes add up their gradients: an all-reduce across one process on each node."""

import re
import socket
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist

from bt_ray.data.location import first_line

Backend = Literal["nccl", "gloo"]

_SIZES = (4 << 10, 4 << 20, 64 << 20)
"""Bytes that are added up: a message that costs its way alone, a layer's and a projector's."""
_REPEATS, _LONGEST_S = 5, 4.0


@dataclass(frozen=True, kw_only=True)
class AllReduce:
    """All-reduces of one size."""

    num_bytes: int
    seconds: float
    """The fastest one took, on the slowest node."""
    bus_mb_s: float
    """What each node sent and received meanwhile, MB/s each way: 2(n-1)/n of the bytes."""


@dataclass(frozen=True, kw_only=True)
class NetworkFacts:
    """What an all-reduce across nodes came to; of one node if it failed there."""

    backend: Backend
    num_nodes: int
    sums: tuple[AllReduce, ...] = ()
    is_right: bool = True
    """Whether the sums were those of the numbers that went in."""
    fault: str | None = None
    """Why this node could not take part, in one line."""


def free_port() -> int:
    """A port of this node that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])


def measure_network(
    backend: Backend, address: str, port: int, rank: int, num_nodes: int, timeout_s: float
) -> NetworkFacts:
    """Meets the other nodes' processes as Ray Train's workers do, and adds up with them.

    Args:
      address, port: of the process with rank 0.
      timeout_s: for the meeting, and for each all-reduce.
    """
    facts = NetworkFacts(backend=backend, num_nodes=num_nodes)
    try:
        dist.init_process_group(
            backend,
            init_method=f"tcp://{address}:{port}",
            rank=rank,
            world_size=num_nodes,
            timeout=timedelta(seconds=timeout_s),
        )
        try:
            device = torch.device("cuda", 0) if backend == "nccl" else torch.device("cpu")
            return _add_up(facts, device)
        finally:
            dist.destroy_process_group()
    except (RuntimeError, OSError) as error:  # dist.DistError is a RuntimeError
        return NetworkFacts(backend=backend, num_nodes=num_nodes, fault=_words(error))


def _words(error: Exception) -> str:
    """The error in one line, without the place in the library's code."""
    return re.sub(r"\s*(with )?\[/[^\]]*\]", "", first_line(error))


def _add_up(facts: NetworkFacts, device: torch.device) -> NetworkFacts:
    sums: list[AllReduce] = []
    is_right = True
    share = 2 * (facts.num_nodes - 1) / facts.num_nodes
    for num_bytes in _SIZES:
        if sums and sums[-1].seconds * num_bytes / sums[-1].num_bytes > _LONGEST_S:
            break  # all nodes know the same seconds
        numbers = torch.ones(num_bytes // 4, device=device)
        fastest, spent = float("inf"), 0.0
        for _ in range(_REPEATS):
            numbers.fill_(1.0)
            seconds = _seconds_of_one(numbers, device)
            is_right &= bool((numbers == facts.num_nodes).all())
            fastest, spent = min(fastest, seconds), spent + seconds
            if spent > _LONGEST_S / 2:
                break
        sums.append(
            AllReduce(
                num_bytes=num_bytes, seconds=fastest, bus_mb_s=share * num_bytes / fastest / 1e6
            )
        )
    return NetworkFacts(
        backend=facts.backend, num_nodes=facts.num_nodes, sums=tuple(sums), is_right=is_right
    )


def _seconds_of_one(numbers: torch.Tensor, device: torch.device) -> float:
    """Seconds of one all-reduce in place, on the slowest node; the same number on all."""
    dist.barrier()
    began = time.perf_counter()
    dist.all_reduce(numbers)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = torch.tensor([time.perf_counter() - began], dtype=torch.float64, device=device)
    dist.all_reduce(seconds, op=dist.ReduceOp.MAX)
    return float(seconds.item())
