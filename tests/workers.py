"""Runs a function in several gloo workers, without Ray."""

import multiprocessing
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.gpu.branch import as_on_cuda, is_wanted

_IMPORTED = (
    "bt_ray.training.loop", "pytest", "torch", "torch._dynamo", "torch.distributed",
)  # fmt: skip


def run_workers(world_size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """`function(rank, world_size, *arguments)` of each of `world_size` workers, by rank.

    Each in a process of its own, forked from a server that has imported already what most of them
    need. What a test does to a module goes with it.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_IMPORTED))
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "store")
        with ProcessPoolExecutor(world_size, mp_context=context) as pool:
            futures = [
                pool.submit(_work, rank, world_size, store, function, arguments)
                for rank in range(world_size)
            ]
            return [future.result(timeout=120) for future in futures]


def _work(
    rank: int, world_size: int, store: str, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> Any:
    torch.set_num_threads(1)
    # Left to the end of the process: destroying a gloo group can hang in torch 2.7, which waits,
    # holding the interpreter's lock, for a thread that needs the lock to release its last tensor.
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    with as_on_cuda() if is_wanted() else nullcontext():
        return function(rank, world_size, *arguments)
