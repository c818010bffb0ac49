"""What a run is planned for, as a person writes it: `32 V100, 100GbE`."""

import difflib
import re
from dataclasses import dataclass, replace

from bt_ray.errors import SettingsError
from bt_ray.forecast.network import Network, Wire, build_network
from bt_ray.forecast.rates import GPUS, Gpu, WireKind

USAGE = (
    "write for example '32 V100, 100GbE', '4x8 V100-32GB, 4x100 IB', '8 H100' or "
    "'8 X9000 (fp16 300 TFLOP/s, 2 TB/s, 48 GB), 200GbE'"
)
_GPUS_A_NODE = 8
_PER_HALF = 16
_GPU = re.compile(r"(?:(\d+)\s*[x×]\s*)?(\d+)\s*[x×]?\s+([A-Za-z][\w.-]*)\s*(?:\(([^)]*)\))?")
_NUMBER_FIRST = re.compile(r"(?:(\d+)\s*[x×]\s*)?(\d+)\s*(?:Gb/s)?\s*([A-Za-z]+)")
_NAME_FIRST = re.compile(r"([A-Za-z]+)\s*(?:(\d+)\s*[x×]\s*)?(\d+)(?:\s*Gb/s)?")
_WIRES: dict[str, WireKind] = {
    "gbe": "GbE", "ethernet": "GbE", "roce": "RoCE", "ib": "IB", "infiniband": "IB",
}  # fmt: skip
_RATES = {
    "fp16": ("half_flops", r"fp16\s+([\d.]+)\s*TFLOP/?s", 1e12),
    "fp32": ("single_flops", r"fp32\s+([\d.]+)\s*TFLOP/?s", 1e12),
    "memory's rate": ("memory_bytes_per_s", r"([\d.]+)\s*TB/s", 1e12),
    "memory": ("memory_bytes", r"([\d.]+)\s*GB", 1e9),
    "PCIe": ("host_bytes_per_s", r"PCIe\s+([\d.]+)\s*GB/s", 1e9),
    "NVLink": ("link_bytes_per_s", r"NVLink\s+([\d.]+)\s*GB/s", 1e9),
}
_NEEDED = ("fp16", "memory's rate", "memory")


@dataclass(frozen=True, kw_only=True)
class Place:
    """So many nodes of so many GPUs, and the wire between the nodes."""

    gpu: Gpu
    nodes: int
    gpus: int
    """Of one node."""
    wire: Wire

    @property
    def workers(self) -> int:
        """GPUs in all."""
        return self.nodes * self.gpus

    @property
    def network(self) -> Network:
        """What all GPUs' collectives run over."""
        return build_network(self.gpu, self.nodes, self.gpus, self.wire)

    def with_rdma(self) -> "Place":
        """The same, its Ethernet used by RDMA."""
        return replace(self, wire=replace(self.wire, kind="RoCE"))

    def __str__(self) -> str:
        nodes = f"{self.nodes} nodes of {self.gpus} " if self.nodes > 1 else f"{self.gpus} "
        return f"{nodes}{self.gpu.name}, {self.wire}"


def parse_place(text: str) -> Place:
    """What `text` names: GPUs and, for several nodes, the network between them.

    Eight GPUs make a node, or all of them if they are fewer; `4x8 V100` says so itself. A GPU that
    the table does not know is described in brackets: its dense fp16 rate, its memory's rate and
    size; `fp32 … TFLOP/s` (else a sixteenth of fp16), `PCIe … GB/s` (else 31.5) and
    `NVLink … GB/s`, one direction (else PCIe's).

    Raises: SettingsError for what cannot be read, saying what can.
    """
    match = _GPU.match(text.strip())
    if match is None:
        raise _unreadable(text, f"{USAGE}. Known GPUs: {', '.join(GPUS)}")
    nodes, gpus = _count(text, match[1], int(match[2]))
    gpu = _find_gpu(match[3]) if match[4] is None else _describe_gpu(match[3], match[4])
    rest = text.strip()[match.end() :].strip()
    if rest and not rest.startswith(","):
        raise _unreadable(rest, f"after the GPUs comes a comma and the network; {USAGE}")
    wire = _find_wire(rest.removeprefix(",").strip(), nodes)
    return Place(gpu=gpu, nodes=nodes, gpus=gpus, wire=wire)


def _count(text: str, nodes: str | None, number: int) -> tuple[int, int]:
    if number == 0 or nodes == "0":
        raise _unreadable(text, "there must be at least one GPU")
    if nodes is not None:
        return int(nodes), number
    if number <= _GPUS_A_NODE:
        return 1, number
    if number % _GPUS_A_NODE:
        raise _unreadable(
            text, f"{number} GPUs are no whole number of nodes of {_GPUS_A_NODE}; say how many "
            "nodes of how many, as in '3x4 V100'"
        )  # fmt: skip
    return number // _GPUS_A_NODE, _GPUS_A_NODE


def _find_gpu(name: str) -> Gpu:
    known = {key.lower(): gpu for key, gpu in GPUS.items()}
    if name.lower() in known:
        return known[name.lower()]
    near = difflib.get_close_matches(name.lower(), known, n=1)
    meant = f"; did you mean {known[near[0]].name}?" if near else ""
    raise _unreadable(
        name, f"the GPUs known are {', '.join(GPUS)}{meant} Describe another one by its rates, as "
        "in 'X9000 (fp16 300 TFLOP/s, 2 TB/s, 48 GB)'"
    )  # fmt: skip


def _describe_gpu(name: str, rates: str) -> Gpu:
    found: dict[str, float] = {}
    for rate in filter(None, (part.strip() for part in rates.split(","))):
        for field, pattern, unit in _RATES.values():
            if match := re.fullmatch(pattern, rate, re.IGNORECASE):
                found[field] = float(match[1]) * unit
                break
        else:
            raise _unreadable(rate, f"a GPU's rates are {', '.join(_RATES)}; {USAGE}")
    missing = [rate for rate in _NEEDED if not found.get(_RATES[rate][0])]
    if missing:
        raise _unreadable(rates, f"{name} lacks {' and '.join(missing)}, above 0; {USAGE}")
    found.setdefault("single_flops", found["half_flops"] / _PER_HALF)
    found.setdefault("host_bytes_per_s", GPUS["A100"].host_bytes_per_s)
    found.setdefault("link_bytes_per_s", found["host_bytes_per_s"])
    return Gpu(name=name, convolution_flops=found["single_flops"], has_bf16=True, **found)


def _find_wire(text: str, nodes: int) -> Wire:
    if not text or text.lower() == "nvlink":
        if nodes > 1:
            raise SettingsError(
                f"{nodes} nodes need a network between them: 10GbE, 25GbE, 100GbE (TCP), 100 RoCE, "
                "100 IB, 4x100 IB, …"
            )
        return Wire(kind="NVLink")
    if match := _NUMBER_FIRST.fullmatch(text):
        cards, gbit, kind = match[1], match[2], match[3]
    elif match := _NAME_FIRST.fullmatch(text):
        kind, cards, gbit = match[1], match[2], match[3]
    if match is None or kind.lower() not in _WIRES or not int(gbit) or cards == "0":
        raise _unreadable(
            text, "a network is so many Gb/s of GbE (TCP), RoCE or IB, as in 25GbE, 100 RoCE, "
            "4x100 IB; NVLink alone joins the GPUs of one node"
        )  # fmt: skip
    return Wire(kind=_WIRES[kind.lower()], gbit=float(gbit), cards=int(cards or 1))


def _unreadable(what: str, way_out: str) -> SettingsError:
    return SettingsError(f"--on: {what!r} cannot be read: {way_out}.")
