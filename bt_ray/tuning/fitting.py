"""Whether a trial's workers have memory enough, told before it takes a place on the cluster."""

from dataclasses import dataclass

import ray

from bt_ray.config import Settings
from bt_ray.forecast.memory import find_fits, measure_size
from bt_ray.training import cluster
from bt_ray.tuning.room import workers_on

_GB = 2**30


@dataclass(frozen=True, kw_only=True)
class Place:
    """The memory that a trial's workers share: a GPU's, for one of them, or a node's."""

    name: str
    memory_bytes: int
    workers: int
    """Of one trial, that lie there together."""
    keeps_copies: bool
    """Whether copies of the state, of which checkpoints are made, lie there too."""


@dataclass(frozen=True, kw_only=True)
class Misfit:
    """A trial that does not fit: what its workers would need in one place, and why, in words."""

    needed_bytes: int
    reason: str


def find_place(settings: Settings) -> Place | None:
    """Where a trial's workers find memory, on the joined cluster; none if that is not known.

    Of GPUs the smallest, as Ray gives a worker any of them. Of nodes the one with the most for each
    worker, by what Ray counts: what does not fit there fits nowhere.
    """
    cards = cluster.find_cards(settings) if cluster.uses_gpu(settings) else None
    if cards is not None:
        sized = [(card.memory_bytes, card) for card in cards if card.memory_bytes]
        if not sized:
            return None
        there, card = min(sized, key=lambda pair: pair[0])
        name = f"the {card.name} on {card.machine}"
        return Place(name=name, memory_bytes=there, workers=1, keeps_copies=False)
    places = []
    for node in ray.nodes():
        room = workers_on(node["Resources"], settings) if node["Alive"] else 0
        memory = int(node["Resources"].get("memory", 0))
        if room and memory:
            together = min(room, max(1, settings.scaling.min_workers))
            name = f"the node {node['NodeManagerAddress']}, as Ray counts,"
            places.append(
                Place(name=name, memory_bytes=memory, workers=together, keeps_copies=True)
            )
    return max(places, key=lambda place: place.memory_bytes / place.workers, default=None)


def check_memory(settings: Settings, place: Place) -> Misfit | None:
    """What keeps a trial of these settings, its own, from fitting; none if it fits."""
    size = measure_size(settings)
    copies = size.checkpoint_bytes if place.keeps_copies else 0
    needed = place.workers * size.memory.total + copies
    if needed <= place.memory_bytes:
        return None
    whose = "a worker needs" if place.workers == 1 else f"{place.workers} workers need"
    ways = "".join(
        f" {fit.options} needs {_size(place.workers * fit.total_bytes + copies)}."
        for fit in find_fits(settings, (place.memory_bytes - copies) / place.workers)
    )
    return Misfit(
        needed_bytes=needed,
        reason=(
            f"{whose} about {_size(needed)}, and {place.name} has {_size(place.memory_bytes)}."
            f"{ways} A smaller data.global_batch or narrower model.projector_widths need less."
        ),
    )


def _size(count: int) -> str:
    return f"{count / _GB:,.2f} GB ({count:,} bytes)"
