"""How many trials run side by side, where each has its place, and what it reserves there."""

import logging
import time
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray import tune

from bt_ray.config import Settings, override
from bt_ray.cpu.count import available_cpus
from bt_ray.ray_start import starts_here
from bt_ray.training import cluster
from bt_ray.training.arithmetic import with_precision
from bt_ray.tuning.claim import Claim

_log = logging.getLogger(__name__)
_PIN = 0.001
"""Of a resource that every node has one of, named after its address: it ties a process to it."""
_DIRECTING_BYTES = 1.5 * 2**30
"""Of memory, to direct a trial's workers: four processes, three of which have imported torch."""
_LOOK_EVERY_S = 1.0
_ROUNDING = 1e-6


def trial_resources(settings: Settings) -> tune.PlacementGroupFactory:
    """What a trial's own process reserves, and where it runs.

    It trains itself, or has workers that do. In that case it stays on the node of the sweep's own
    process: with it runs all that directs the workers, and a lost node then takes along nothing but
    workers, of its own trials.
    """
    if settings.scaling.min_workers > 0:
        return tune.PlacementGroupFactory([{f"node:{_this_node()['NodeManagerAddress']}": _PIN}])
    cpus = {"CPU": settings.scaling.cpus_per_worker}
    return tune.PlacementGroupFactory([cpus | ({"GPU": 1.0} if cluster.uses_gpu(settings) else {})])


def _this_node() -> dict[str, Any]:
    """What Ray says of the node that this process runs on."""
    node_id = ray.get_runtime_context().get_node_id()
    nodes: dict[str, dict[str, Any]] = {node["NodeID"]: node for node in ray.nodes()}
    return nodes[node_id]


@dataclass
class Room:
    """How many trials run side by side, asked again and again.

    A node that is lost takes its trials' places along until it is back: trials that lost their
    workers have the places that become free, before any new trial begins.
    """

    settings: Settings
    at_once: int | None = None
    """As many as somebody wants; none: as many as there is room for, on new nodes, too."""
    at_start: int = 0
    """Places that there were at the start."""
    most: int | None = None
    """As many as the sweep's own node can direct; none: any number."""
    _seen: tuple[float, int] = field(default=(0.0, 0), repr=False)

    def now(self) -> int:
        """Trials that may run side by side now, at least one."""
        when, places = self._seen
        if time.monotonic() - when > _LOOK_EVERY_S or not when:
            places = count_places(self.settings)
            if places == 0 and (self._seen[1] or not when):
                _log.warning("No living node has room for a trial: trials wait until one has.")
            self._seen = time.monotonic(), places
        if self.at_once is not None:
            return max(1, self.at_once - max(0, self.at_start - places))
        return max(1, places if self.most is None else min(places, self.most))


def join_cluster(settings: Settings, at_once: int | None, claim: Claim) -> tuple[Settings, Room]:
    """Joins or starts the cluster; the settings of all trials there, and the room for them.

    On a cluster that is started here, as many trials run as have cores for their workers. It gets
    as many logical CPUs as they reserve, and decoders share the workers' cores.

    Raises: LaunchError if not even one fits.
    """
    if at_once is None and not ray.is_initialized() and starts_here():
        at_once = max(1, int(available_cpus() / _cores(settings)))
    cluster.connect(settings, at_once=at_once or 1)
    settings = settle(settings, claim)
    room = Room(settings, at_once, count_places(settings), _count_directed(settings))
    return share_threads(settings, room.now()), room


def _count_directed(settings: Settings) -> int | None:
    """Trials that this node has memory to direct; none if they direct themselves."""
    memory = _this_node()["Resources"].get("memory", 0.0)
    if settings.scaling.min_workers == 0 or not memory:
        return None
    most = max(1, int(memory / _DIRECTING_BYTES))
    if most < count_places(settings):
        _log.warning(
            "This node has memory to direct %d trials at once, fewer than the cluster has places "
            "for: --at-once sets another number, and a larger node directs more.",
            most,
        )
    return most


def _cores(settings: Settings) -> float:
    """Cores that a trial computes on."""
    return max(1, settings.scaling.min_workers) * settings.scaling.cpus_per_worker


def count_places(settings: Settings) -> int:
    """Trials that all living nodes have room for, whoever is there now.

    A worker has its CPUs, and its whole GPU, on one node; a trial's workers may lie on several.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    workers = max(1, settings.scaling.min_workers)
    places = sum(workers_on(node, settings) for node in nodes) // workers
    if settings.scaling.min_workers == 0:
        return places
    cpus = sum(node.get("CPU", 0.0) for node in nodes)
    return min(places, int(cpus / cluster.cpus_needed(settings) + _ROUNDING))


def workers_on(node: dict[str, float], settings: Settings) -> int:
    """Workers that a node has room for, from its resources as Ray names them."""
    count = int(node.get("CPU", 0.0) / settings.scaling.cpus_per_worker + _ROUNDING)
    return min(count, int(node.get("GPU", 0.0))) if cluster.uses_gpu(settings) else count


def settle(settings: Settings, claim: Claim) -> Settings:
    """The settings with what all trials compute on and in which arithmetic, which the claim keeps.

    Each would otherwise ask the cluster itself, and be answered by what nodes there are just then,
    and whether others hold their GPUs. Trials without workers see to it where they train.
    """
    if settings.scaling.min_workers == 0:
        return settings
    if settings.training.precision == "auto":
        precision = claim.precision or cluster.best_on_cluster(settings)
        claim.keep(precision)
        settings = with_precision(settings, precision)
    if not cluster.uses_gpu(settings):
        accelerator = "cpu"
    elif cluster.find_cards(settings) is not None:
        accelerator = "gpu"
    else:  # they compute on CPUs, and hold GPUs that only Ray counts
        return settings
    return override(settings, {"scaling.accelerator": accelerator})


def share_threads(settings: Settings, at_once: int) -> Settings:
    """The settings with threads for each worker, so that all trials together use every core once.

    They stay as they are on a cluster of several machines, and where they name the threads.
    """
    scaling = settings.scaling
    if scaling.threads_per_worker is not None or len(ray.nodes()) > 1:
        return settings
    each = max(1, available_cpus() // (at_once * max(1, scaling.min_workers)))
    return replace(settings, scaling=replace(scaling, threads_per_worker=each))
