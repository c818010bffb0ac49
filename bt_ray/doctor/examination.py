"""All that was seen of a cluster, or of one machine; what the judges read."""

from dataclasses import dataclass, field

from bt_ray.doctor.images import ImageFacts
from bt_ray.doctor.network import NetworkFacts
from bt_ray.doctor.node import NodeFacts
from bt_ray.doctor.storage import StorageFacts
from bt_ray.doctor.tracking import TrackingFacts


@dataclass(frozen=True, kw_only=True)
class ClockFacts:
    """A node's clock against that of the process that asks."""

    offset_s: float
    """How far it is ahead."""
    error_s: float
    """How far that may be off: half the time of the question's way there and back."""


@dataclass(frozen=True, kw_only=True)
class Orders:
    """What to look at besides the nodes themselves; none: leave it out."""

    storage: str | None = None
    """Absolute path or URI."""
    images: str | None = None
    tracking_uri: str | None = None


def local_folders(orders: Orders) -> dict[str, str]:
    """By purpose, the folders that are written to and whose disks must have room."""
    storage = orders.storage
    return {} if storage is None or "://" in storage else {"storage": storage}


@dataclass(kw_only=True)
class Examination:
    """Facts by node; a node that did not answer a question in time has none there."""

    orders: Orders
    is_cluster: bool = False
    own_versions: dict[str, str] = field(default_factory=dict)
    """Of the process that asks."""
    nodes: dict[str, NodeFacts] = field(default_factory=dict)
    silent: dict[str, str] = field(default_factory=dict)
    """Nodes on which nothing could be run, and why."""
    clocks: dict[str, ClockFacts] = field(default_factory=dict)
    storage: dict[str, StorageFacts | None] = field(default_factory=dict)
    images: dict[str, ImageFacts | None] = field(default_factory=dict)
    network: dict[str, NetworkFacts | None] = field(default_factory=dict)
    """Empty unless several nodes can train."""
    tracking: TrackingFacts | None = None
    faults: list[str] = field(default_factory=list)
    """Why the cluster that was named could not be looked at."""
