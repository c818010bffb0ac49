"""Ray Data that feeds many training workers of one machine, and what that costs its coordinator."""

import os
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import psutil
import pyarrow as pa

from bt_ray.config import Settings
from bt_ray.data.stream.decode import Columns, make_views

_COORDINATOR = "ray::SplitCoordinator"
_LOOK_S = 0.25

Measured = dict[str, float]


def through_consumers(settings: Settings, steps: int, *, decode: bool = True) -> Measured:
    """Ray Data to `scaling.workers` processes, which do nothing with what they get.

    Args:
      decode: whether images are decoded and cropped; if not, all but the views is delivered.
    Returns: `images_per_s` from a step in their second quarter on; `first_s`, seconds until every
      process had its first step, from when they were up; `coordinator_cores`, the CPU time of the
      process that hands out blocks, a second, in the same part.
    """
    os.environ |= {"RAY_worker_niceness": "0", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
    import ray

    from bt_ray.data.stream import ingest

    workers = settings.scaling.min_workers
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    try:
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        remote: Any = ray.remote(num_cpus=0)(_Consumer)
        consumers = [remote.remote() for _ in range(workers)]
        ray.get([consumer.ready.remote() for consumer in consumers])
        began = time.time()
        make = make_views if decode else without_views
        dataset = ingest.build_dataset(settings, start=0, stop=steps, make=make)
        parts = dataset.streaming_split(workers, equal=True)
        pairs = zip(consumers, parts, strict=True)
        running = [consumer.count.remote(part) for consumer, part in pairs]
        looks = [(began, 0.0)]
        while True:
            _, left = ray.wait(running, num_returns=len(running), timeout=_LOOK_S)
            looks.append((time.time(), _cpu_s(_COORDINATOR)))
            if not left:
                break
        ends = [max(ends) for ends in zip(*ray.get(running), strict=True)]
    finally:
        ray.shutdown()
    first = end_of_a_row(ends)
    return {
        "images_per_s": steady(ends, settings.data.global_batch),
        "first_s": ends[0] - began,
        "coordinator_cores": _cores(looks, ends[first], ends[-1]),
    }


def steady(ends: Sequence[float], global_batch: int) -> float:
    """Images/s of steps that ended at these times, the first quarter or more left out."""
    first = end_of_a_row(ends)
    return global_batch * (len(ends) - 1 - first) / (ends[-1] - ends[first])


def end_of_a_row(ends: Sequence[float]) -> int:
    """A step in the second quarter of all, after which the next one was long in coming.

    A row's steps come all at once: what is counted from its middle on would be too much.
    """
    waits = [after - before for before, after in pairwise(ends)]
    quarter = len(ends) // 4
    return max(range(quarter, max(quarter + 1, 2 * quarter)), key=lambda i: waits[i])


class _Consumer:
    """A training worker's process, as far as it takes batches."""

    def ready(self) -> None:
        """Returns when the process has imported what it needs."""
        import bt_ray.data.stream.ingest  # noqa: F401

    def count(self, part: Any) -> list[float]:
        """When each step was there."""
        from bt_ray.data.stream.ingest import worker_blocks

        return [time.time() for _ in worker_blocks(part)]


def without_views(table: pa.Table, *_: object) -> Columns:
    """What `decode.make_views` makes of a step's rows, but for the views."""
    names = ("row", "width", "height", "step", "slot")
    columns: Columns = {name: table[name].to_numpy() for name in names}
    columns["sample"], columns["digest"] = columns["row"], np.zeros(table.num_rows, np.uint64)
    return columns


def _cpu_s(name: str) -> float:
    """CPU seconds of the processes called so, below this one."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith(name):
                total += sum(process.cpu_times()[:2])
        except psutil.Error:
            continue
    return total


def _cores(looks: Sequence[tuple[float, float]], start: float, stop: float) -> float:
    """CPU seconds a second between two times."""
    inside = [look for look in looks if start <= look[0] <= stop] or list(looks[-2:])
    (t0, c0), (t1, c1) = inside[0], inside[-1]
    return (c1 - c0) / max(t1 - t0, 1e-9)
