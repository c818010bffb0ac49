"""The Ray cluster that a run needs, and whether it is there."""

import logging
import math
import os

import ray

from bt_ray.config import Settings
from bt_ray.errors import LaunchError
from bt_ray.training.on_cpu import warn_on_cpu

_DATA_CPUS = 1.0
_LOCALLY = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # none takes this node away
    "RAY_idle_worker_killing_time_threshold_ms": "60000",  # 1 s is Ray's: readers would come and go
}
"""Environment of every process of a cluster that is started here; what the user has set wins."""


def connect(settings: Settings, *, extra_cpus: float = 0.0, at_once: int = 1) -> None:
    """Joins the Ray cluster, or starts one on this machine, and checks that the run fits.

    Args:
      extra_cpus: logical CPUs that the caller takes besides the run's own.
      at_once: how many such runs a cluster that is started here has room for.
    Raises: LaunchError if there is no GPU for each worker, or no CPU left for Ray Data besides
      the workers': Ray would wait for them forever, without a word.
    """
    needed = cpus_needed(settings) + extra_cpus
    if not ray.is_initialized():
        is_local = starts_here()
        num_cpus = max(os.cpu_count() or 1, math.ceil(at_once * needed)) if is_local else None
        if is_local:
            os.environ |= _LOCALLY | os.environ
        ray.init(
            num_cpus=num_cpus,
            log_to_driver=False,
            logging_level=logging.WARNING,
            address="local" if is_local else None,
            include_dashboard=False if is_local else None,  # it would end with the run
        )
    workers, available = settings.scaling.workers, ray.cluster_resources()
    if needed > available.get("CPU", 0):
        raise LaunchError(
            f"scaling.workers={workers} × scaling.cpus_per_worker="
            f"{settings.scaling.cpus_per_worker} and {_DATA_CPUS:g} CPU for reading data make "
            f"{needed:g} CPUs; the cluster has {available.get('CPU', 0):g}. Use fewer workers or "
            "fewer CPUs each."
        )
    if uses_gpu(settings):
        check_gpus(settings, available.get("GPU", 0))
    elif starts_here():
        warn_on_cpu(settings)


def check_gpus(settings: Settings, num_gpus: float) -> None:
    """Raises LaunchError unless there is a GPU for each worker."""
    workers = settings.scaling.workers
    if workers > num_gpus:
        raise LaunchError(
            f"scaling.workers={workers} need a GPU each; the cluster has "
            f"{num_gpus:g}. Use fewer workers, or scaling.accelerator=cpu."
        )


def starts_here() -> bool:
    """Whether a run would start Ray on this machine, with the logical CPUs that it needs."""
    return "RAY_ADDRESS" not in os.environ and "RAY_JOB_ID" not in os.environ


def cpus_needed(settings: Settings) -> float:
    """Logical CPUs of a run: its workers', and what decoding needs at least."""
    return settings.scaling.workers * settings.scaling.cpus_per_worker + _DATA_CPUS


def uses_gpu(settings: Settings) -> bool:
    """Whether workers get a GPU each."""
    if settings.scaling.accelerator != "auto":
        return settings.scaling.accelerator == "gpu"
    num_gpus: float = ray.cluster_resources().get("GPU", 0)
    return num_gpus >= max(1, settings.scaling.workers)
