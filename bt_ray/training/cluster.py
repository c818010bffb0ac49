"""The Ray cluster that a run needs, and whether it is there."""

import functools
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import ray
from ray.autoscaler.sdk import request_resources
from ray.exceptions import TaskUnschedulableError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bt_ray.config import Settings
from bt_ray.cpu.count import available_cpus
from bt_ray.errors import LaunchError
from bt_ray.precision import Precision, best_on_cpu, best_on_gpu
from bt_ray.ray_internals import has_autoscaler
from bt_ray.ray_start import join_ray, starts_here
from bt_ray.training.on_cpu import warn_on_cpu
from bt_ray.training.preflight import Card, check_cards, look_for_card

T = TypeVar("T")

_log = logging.getLogger(__name__)
DATA_CPUS = 1.0
"""Logical CPUs that reading data needs, at least, besides the workers'."""
_POLL_S = 2.0
_WAIT_MINUTES = 15.0
_KNOWN_S, _ASKED_AGAIN_S = 20.0, 0.5
"""How long Ray's scheduler may not have heard of a node that has just come."""
_SHARE, _EXAMINED_S = 0.001, 60.0  # of a GPU, to look at it; seconds for all nodes to answer
_LOCALLY = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # none takes this node away
    "RAY_idle_worker_killing_time_threshold_ms": "60000",  # 1 s is Ray's: readers would come and go
}
"""Environment of every process of a cluster that is started here; what the user has set wins."""


def connect(settings: Settings, *, at_once: int = 1) -> None:
    """Joins the Ray cluster, or starts one on this machine, and checks that the run fits.

    Args:
      at_once: how many such runs a cluster that is started here has room for.
    Raises: LaunchError if the cluster cannot be joined; if there is no GPU for each worker, or no
      CPU left for Ray Data besides the workers', `scaling.wait_minutes` after the start; or if a
      GPU cannot carry out the run. A trial is never refused: its sweep has seen to all that, and
      what a lost node took along is waited for.
    """
    if is_trial():
        return
    needed = cpus_needed(settings)
    if not ray.is_initialized():
        if starts_here():
            os.environ |= _LOCALLY | os.environ
        join_ray(max(available_cpus(), math.ceil(at_once * needed)))
    _wait_for_resources(settings, needed)
    if uses_gpu(settings):
        check_cards(find_cards(settings) or (), settings)
    elif starts_here():
        warn_on_cpu(settings)


def _wait_for_resources(settings: Settings, cpus: float) -> None:
    """Returns once the cluster has all that the run needs.

    Raises: LaunchError for what it lacks, when `scaling.wait_minutes` are over.
    """
    minutes = minutes_to_wait(settings, is_start=True)
    deadline = time.monotonic() + 60 * minutes
    asked = False
    while True:
        try:
            check_resources(settings, cpus, ray.cluster_resources())
            break
        except LaunchError as error:
            if time.monotonic() >= deadline:
                raise
            if not asked:
                _log.warning("Waiting up to %g minutes for more nodes: %s", minutes, error)
                if settings.scaling.accelerator == "auto" and not uses_gpu(settings):
                    _log.warning("They compute on CPUs; --scaling.accelerator gpu wants GPUs.")
                ask_autoscaler(settings)
                asked = True
            time.sleep(_POLL_S)
    if asked:
        ask_autoscaler(None)  # from here on, the workers themselves ask


def minutes_to_wait(settings: Settings, *, is_start: bool) -> float:
    """`scaling.wait_minutes`, or what it is if it is left out.

    Args:
      is_start: of the run; else workers are replaced, whose nodes were there once.
    """
    minutes = settings.scaling.wait_minutes
    if minutes is not None:
        return minutes
    return _WAIT_MINUTES if not is_start or has_autoscaler() else 0


def ask_autoscaler(settings: Settings | None) -> None:
    """Asks for all that the run needs, if there is an autoscaler; takes that back without a run."""
    request_resources(bundles=[] if settings is None else _bundles(settings))


def _bundles(settings: Settings) -> list[dict[str, float]]:
    """What an autoscaler is asked for: a place for each worker, and one for reading data."""
    scaling = settings.scaling
    gpu = {"GPU": 1.0} if uses_gpu(settings) else {}
    return [{"CPU": scaling.cpus_per_worker} | gpu] * scaling.min_workers + [{"CPU": DATA_CPUS}]


def check_resources(settings: Settings, cpus: float, available: Mapping[str, float]) -> None:
    """Raises LaunchError for what a cluster lacks: Ray would wait for it forever, without a word.

    Args:
      cpus: logical CPUs of the run.
      available: the cluster's resources, as Ray names them.
    """
    workers = settings.scaling.min_workers
    if cpus > available.get("CPU", 0):
        raise LaunchError(
            f"scaling.workers={workers} × scaling.cpus_per_worker="
            f"{settings.scaling.cpus_per_worker} and {DATA_CPUS:g} CPU for reading data make "
            f"{cpus:g} CPUs; the cluster has {available.get('CPU', 0):g}. Use fewer workers or "
            "fewer CPUs each."
        )
    if takes_gpu(settings, available.get("GPU", 0)):
        check_gpus(settings, available.get("GPU", 0))


def check_gpus(settings: Settings, num_gpus: float) -> None:
    """Raises LaunchError unless there is a GPU for each worker."""
    workers = settings.scaling.min_workers
    if workers > num_gpus:
        raise LaunchError(
            f"scaling.workers={workers} need a GPU each; the cluster has "
            f"{num_gpus:g}. Use fewer workers, scaling.accelerator=cpu, or, if more nodes are to "
            "come, --scaling.wait-minutes 15."
        )


def find_cards(settings: Settings) -> list[Card] | None:
    """One GPU of each node; none of a node whose GPUs are all taken for now.

    Returns: none if Ray counts GPUs, and torch finds none on any of their nodes: workers that hold
      one compute on the CPU then, unless the settings say gpu.
    Raises: LaunchError for nodes without, if they say so, or if others have GPUs.
    """
    found = _examine_nodes()
    cards = [card for card in found if isinstance(card, Card)]
    without = sorted({machine for machine in found if isinstance(machine, str)})
    if not without:
        return cards
    if cards or settings.scaling.accelerator == "gpu":
        raise LaunchError(
            f"Ray counts GPUs on {', '.join(without)}, where torch finds none with CUDA: mend the "
            "driver or torch there (python -m pipelines.doctor says more), start Ray there without "
            "--num-gpus, or give --scaling.accelerator cpu."
        )
    _warn_without(", ".join(without))
    return None


@functools.cache  # once a process
def _warn_without(machines: str) -> None:
    _log.warning(
        "Ray counts GPUs on %s, where torch finds none with CUDA: each worker holds one by Ray's "
        "count, and computes on the CPU. With --scaling.accelerator gpu this is refused.",
        machines,
    )


def _examine_nodes() -> list[Card | str]:
    """Of each node whose GPUs are not all taken one of them, or its name if torch finds none."""
    return _ask_nodes(look_for_card, num_gpus=_SHARE)


def _ask_nodes(look: Callable[[], T], num_gpus: float = 0) -> list[T]:
    """What the function returns on each node, those with GPUs alone if it takes a share of one.

    A node that has just come is asked again until Ray's scheduler has heard of it, one that has
    gone is left out.
    """
    found: list[T] = []
    wanted = {
        node["NodeID"] for node in _living() if num_gpus == 0 or node["Resources"].get("GPU", 0) > 0
    }
    give_up = time.monotonic() + _KNOWN_S
    while wanted:
        remote = ray.remote(num_gpus=num_gpus, num_cpus=0)(look)
        asked = {
            remote.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False)
            ).remote(): node_id
            for node_id in wanted
        }
        done, late = ray.wait(list(asked), num_returns=len(asked), timeout=_EXAMINED_S)
        for task in late:
            ray.cancel(task)
        unknown = set()
        for task in done:
            try:
                found.append(ray.get(task))
            except TaskUnschedulableError:
                unknown.add(asked[task])
        wanted = unknown & {node["NodeID"] for node in _living()}
        if time.monotonic() > give_up:
            break
        time.sleep(_ASKED_AGAIN_S if wanted else 0)
    return found


def _living() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def best_on_cluster(settings: Settings) -> Precision:
    """The fastest arithmetic that all nodes of the joined cluster have which the run may use."""
    if not uses_gpu(settings):
        found = [best_on_cpu()] if starts_here() else _ask_nodes(best_on_cpu)
        return "bf16" if set(found) == {"bf16"} else "fp32"
    cards = find_cards(settings)
    if cards is None:
        return "bf16" if set(_ask_nodes(best_on_cpu)) == {"bf16"} else "fp32"
    if not cards:  # all are taken for now
        return "fp16"
    return best_on_gpu(min(card.capability for card in cards))


def cpus_needed(settings: Settings) -> float:
    """Logical CPUs of a run, at least: its workers', and what decoding needs."""
    return settings.scaling.min_workers * settings.scaling.cpus_per_worker + DATA_CPUS


def is_trial() -> bool:
    """Whether this process is a trial of a sweep, in a place of its own that others lie beside."""
    try:
        return ray.is_initialized() and ray.util.get_current_placement_group() is not None
    except ray.exceptions.RaySystemError:  # the cluster is gone
        return False


def uses_gpu(settings: Settings) -> bool:
    """Whether workers get a GPU each."""
    return takes_gpu(settings, ray.cluster_resources().get("GPU", 0))


def takes_gpu(settings: Settings, num_gpus: float) -> bool:
    """Whether workers get a GPU each, where there are so many.

    Where there are some, `auto` takes them, and never CPUs because they are too few.
    """
    accelerator = settings.scaling.accelerator
    return num_gpus > 0 if accelerator == "auto" else accelerator == "gpu"
