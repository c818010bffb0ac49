"""What is small goes straight from worker to worker, where all are on one machine.

gloo takes each collective from the thread that wants it to another that runs it, to one that reads
the network, and back; where all cores are computing, each of them first waits for its turn. Batch
norm meets the other workers in every layer, both ways, over a few kilobytes: there the worker's
own thread writes to sockets and reads from them.
"""

import socket
import tempfile
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

MOST_BYTES = 2**16
"""Of a row: what a socket holds without its reader, so that all may write before they read."""
_TIMEOUT_S = 1800.0
"""As gloo's: a worker may be late by an evaluation, say."""
_RANK_BYTES = 4


class PeerSockets:
    """A socket to each other worker of the default process group."""

    def __init__(self, rank: int, peers: dict[int, socket.socket]) -> None:
        self._rank, self._peers = rank, peers
        for peer in peers.values():
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MOST_BYTES)
            peer.settimeout(_TIMEOUT_S)

    def exchange(self, row: Tensor) -> Tensor:
        """Every worker's `row`, by rank: (W, *row.shape). All of them call it.

        Args:
          row: on the CPU, of at most `MOST_BYTES`; of the same shape and dtype everywhere.
        Raises: ConnectionError if another worker is gone, TimeoutError if it does not come.
        """
        table = row.new_empty(len(self._peers) + 1, *row.shape)
        table[self._rank] = row.detach()
        for peer in self._peers.values():
            peer.sendall(_bytes(table[self._rank]))
        for rank, peer in self._peers.items():
            _read(peer, _bytes(table[rank]))
        return table


def connect_peers() -> PeerSockets | None:
    """Sockets to all other workers; None if they are on several machines. All of them call it."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    with tempfile.TemporaryDirectory(prefix="bt_ray-") as folder:
        path = Path(folder) / "socket"
        listener = _listen(path, world_size)
        places = _gather((socket.gethostname(), path))
        reached = all(host == places[0][0] and path.exists() for host, path in places)
        if not all(_gather(reached)) or listener is None:
            return None
        with listener:
            # Who has a lower rank already listens, and has only still lower ones to connect to.
            peers = {other: _call(places[other][1], rank) for other in range(rank)}
            for _ in range(rank + 1, world_size):
                peer, other = _answer(listener)
                peers[other] = peer
    return PeerSockets(rank, dict(sorted(peers.items())))


def _listen(path: Path, world_size: int) -> socket.socket | None:
    """A socket at that path; None where there are none, or not so deep down."""
    try:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
    except (AttributeError, OSError):
        return None
    listener.listen(world_size)
    listener.settimeout(_TIMEOUT_S)
    return listener


def _call(path: Path, rank: int) -> socket.socket:
    """A socket to the worker that listens there, which is told who calls."""
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(str(path))
    peer.sendall(rank.to_bytes(_RANK_BYTES, "big"))
    return peer


def _answer(listener: socket.socket) -> tuple[socket.socket, int]:
    """A socket to the next worker that calls, and its rank."""
    peer, _ = listener.accept()
    caller = bytearray(_RANK_BYTES)
    _read(peer, memoryview(caller))
    return peer, int.from_bytes(caller, "big")


def _gather(value: T) -> list[T]:
    """Every worker's value, by rank."""
    values: list[T] = [value] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def _bytes(row: Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    return row.reshape(-1).view(torch.uint8).numpy().data


def _read(peer: socket.socket, target: memoryview) -> None:
    """Fills the target with what the peer sends."""
    while target:
        count = peer.recv_into(target)
        if count == 0:
            raise ConnectionError("Another worker has closed its connection: it is gone.")
        target = target[count:]
