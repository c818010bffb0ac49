"""Seconds of NCCL's collectives between the GPUs of some nodes."""

from dataclasses import dataclass

from bt_ray.forecast.rates import (
    LATENCY_S,
    LINK_SHARE,
    RDMA_SHARE,
    SOCKET_BYTES_PER_S,
    SOCKET_SHARE,
    Gpu,
    WireKind,
)


@dataclass(frozen=True, kw_only=True)
class Wire:
    """What leads out of a node: so many cards of so many Gb/s."""

    kind: WireKind
    gbit: float = 0.0
    cards: int = 1

    @property
    def bytes_per_s(self) -> float:
        """What NCCL reaches of it, one direction."""
        line = self.gbit * 1e9 / 8
        if self.kind == "GbE":
            return self.cards * min(SOCKET_SHARE * line, SOCKET_BYTES_PER_S)
        return self.cards * RDMA_SHARE * line

    def __str__(self) -> str:
        cards = f"{self.cards} × " if self.cards > 1 else ""
        return self.kind if self.kind == "NVLink" else f"{cards}{self.gbit:g} Gb/s {self.kind}"


@dataclass(frozen=True, kw_only=True)
class Network:
    """The wires between `nodes` × `gpus` GPUs, as a ring uses them."""

    nodes: int
    gpus: int
    bytes_per_s: float
    """NCCL's bus bandwidth: bytes that each GPU sends in a second."""
    latency_s: float
    """Of any collective; 0 for one GPU."""

    @property
    def workers(self) -> int:
        """GPUs in all."""
        return self.nodes * self.gpus

    def all_reduce_s(self, num_bytes: float) -> float:
        """Each GPU sends 2 (W − 1)/W of the bytes."""
        return 2 * self.all_gather_s(num_bytes) - self.latency_s

    def all_gather_s(self, num_bytes: float) -> float:
        """Each GPU sends (W − 1)/W of all GPUs' bytes together."""
        sent = num_bytes * (self.workers - 1) / self.workers
        return sent / self.bytes_per_s + self.latency_s

    def all_to_all_s(self, num_bytes: float) -> float:
        """Each GPU's bytes go to all others alike, so that a node's GPUs share its wire."""
        if self.nodes == 1:
            return self.all_gather_s(num_bytes)
        out_of_node = num_bytes * self.gpus * (self.nodes - 1) / self.nodes
        return out_of_node / self.bytes_per_s + self.latency_s


def build_network(gpu: Gpu, nodes: int, gpus: int, wire: Wire) -> Network:
    """The network of some nodes: the wire between several, NVLink within one."""
    inside = LINK_SHARE * gpu.link_bytes_per_s
    if nodes == 1:
        latency_s = LATENCY_S["NVLink"] if gpus > 1 else 0.0
        return Network(nodes=1, gpus=gpus, bytes_per_s=inside, latency_s=latency_s)
    slower = min(inside, wire.bytes_per_s)
    return Network(nodes=nodes, gpus=gpus, bytes_per_s=slower, latency_s=LATENCY_S[wire.kind])
