"""Decides where vectors are computed: by actors on the Ray cluster, or in this process."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from bt_ray.cpu.count import available_cpus
from bt_ray.data.preparation.tasks import RunAll, one_after_the_other
from bt_ray.embedding.encoder import Computation, Device
from bt_ray.errors import LaunchError, SettingsError

Accelerator = Literal["auto", "cpu", "gpu"]


@dataclass(frozen=True)
class Pool:
    """What runs the tasks, how each task computes, and the same in words for people."""

    run_all: RunAll
    computation: Computation
    words: str


def build_pool(workers: int | None, accelerator: Accelerator, computation: Computation) -> Pool:
    """A pool of actors: one for each GPU or, without GPUs, one for each CPU core.

    Args:
      workers: actors; none: as many as fit; 0: this process alone, without Ray.
      accelerator: what to compute on; auto: GPUs if there are any.
      computation: precision and size of batches; device and threads are decided here.
    Raises: LaunchError if `accelerator` is gpu and there are fewer GPUs than workers;
      SettingsError if workers is negative.
    """
    if workers is not None and workers < 0:
        raise SettingsError(f"workers={workers} must be at least 0.")
    if workers == 0:
        return _this_process(accelerator, computation)
    return _on_ray(workers, accelerator, computation)


def _this_process(accelerator: Accelerator, computation: Computation) -> Pool:
    import torch

    has_gpu = torch.cuda.is_available()
    if accelerator == "gpu" and not has_gpu:
        raise LaunchError("--accelerator gpu needs a GPU, and there is none here; use cpu.")
    device: Device = "cuda" if has_gpu and accelerator != "cpu" else "cpu"
    here = replace(computation, device=device, threads=available_cpus())
    return Pool(one_after_the_other, here, f"in this process, on {device}")


def _on_ray(workers: int | None, accelerator: Accelerator, computation: Computation) -> Pool:
    import ray  # here: it takes seconds to import

    from bt_ray.data.preparation.parallel import connect, run_in_actors

    connect(workers)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    cpus = int(sum(node.get("CPU", 0) for node in nodes))
    if accelerator == "gpu" and gpus < (workers or 1):
        raise LaunchError(
            f"{workers or 1} workers on GPUs were asked for, and the cluster has {gpus} GPUs; "
            "give fewer --workers, or --accelerator cpu."
        )
    if gpus and accelerator != "cpu":
        actors = min(workers or gpus, gpus)
        with_gpu = [node for node in nodes if node.get("GPU", 0) >= 1]
        threads = max(1, min(int(n.get("CPU", 1) // n["GPU"]) for n in with_gpu))
        run_all = partial(run_in_actors, actors=actors, num_cpus=threads, num_gpus=1)
        there = replace(computation, device="cuda", threads=threads)
        return Pool(run_all, there, f"by {actors} actors, each with a GPU and {threads} CPUs")
    actors = max(1, min(workers or cpus, cpus))
    run_all = partial(run_in_actors, actors=actors, num_cpus=1)
    there = replace(computation, device="cpu", threads=1)
    return Pool(run_all, there, f"by {actors} actors, each with a CPU")
