"""How many trials run side by side, and what each of them reserves."""

from dataclasses import replace

import ray

from bt_ray.config import Settings
from bt_ray.cpu.count import available_cpus
from bt_ray.ray_start import starts_here
from bt_ray.training import cluster

_DRIVER_CPUS = 0.01  # Tune refuses 0; the trial's own workers do the work


def trial_resources(settings: Settings) -> dict[str, float]:
    """What a trial's own process reserves: next to nothing if workers train for it."""
    if settings.scaling.min_workers > 0:
        return {"CPU": _DRIVER_CPUS}
    cpus = {"CPU": settings.scaling.cpus_per_worker}
    return cpus | ({"GPU": 1.0} if cluster.uses_gpu(settings) else {})


def join_cluster(settings: Settings, at_once: int | None) -> int:
    """Joins or starts the cluster; the number of trials to run side by side, at least one.

    On a cluster that is started here, as many trials run as have cores for their workers. It gets
    as many logical CPUs as they reserve, and decoders share the workers' cores.

    Raises: LaunchError if not even one fits.
    """
    if at_once is None and not ray.is_initialized() and starts_here():
        at_once = max(1, int(available_cpus() / _cores(settings)))
    cluster.connect(settings, extra_cpus=_DRIVER_CPUS, at_once=at_once or 1)
    return at_once or _room(settings)


def _cores(settings: Settings) -> float:
    """Cores that a trial computes on."""
    return max(1, settings.scaling.min_workers) * settings.scaling.cpus_per_worker


def _room(settings: Settings) -> int:
    resources = ray.cluster_resources()
    workers = settings.scaling.min_workers
    needed = cluster.cpus_needed(settings) + _DRIVER_CPUS if workers else _cores(settings)
    room = resources.get("CPU", 1) / needed
    if cluster.uses_gpu(settings):
        room = min(room, resources.get("GPU", 0) / max(1, workers))
    return max(1, int(room))


def share_threads(settings: Settings, at_once: int) -> Settings:
    """The settings with threads for each worker, so that all trials together use every core once.

    They stay as they are on a cluster of several machines, and where they name the threads.
    """
    scaling = settings.scaling
    if scaling.threads_per_worker is not None or len(ray.nodes()) > 1:
        return settings
    each = max(1, available_cpus() // (at_once * max(1, scaling.min_workers)))
    return replace(settings, scaling=replace(scaling, threads_per_worker=each))
