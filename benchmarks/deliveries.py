"""Ways of delivering two views of each image to who trains on them, and how fast each is."""

import multiprocessing
import os
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from benchmarks.consumers import steady
from bt_ray.config import Settings, ViewSettings
from bt_ray.cpu.count import available_cpus
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.decode import make_views, read_steps
from bt_ray.data.stream.plan import build_plan
from bt_ray.data.views import reference
from bt_ray.data.views.draw import draw

GLOBAL_BATCH = 100
CORES = available_cpus()

Measured = dict[str, float]
"""`images_per_s`, and of Ray the most of its object store, `store_mb`."""


def through_ray(settings: Settings, steps: int) -> Measured:
    """Ray Data, read to delivery in another process, once all of its processes are up."""
    os.environ |= {"RAY_worker_niceness": "0", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
    import ray

    from bt_ray.data.stream.ingest import build_dataset

    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    try:
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        dataset = build_dataset(settings, start=0, stop=steps)
        [part] = dataset.streaming_split(1, equal=True)
        done = ray.remote(num_cpus=0)(count_steps).remote(part)
        with watched_store() as most:
            images_per_s = ray.get(done)
        return {"images_per_s": images_per_s, "store_mb": most[0] / 1e6}
    finally:
        ray.shutdown()


def count_steps(part: Any) -> float:
    """Images/s that a worker is handed as tensors, the first quarter of its steps left out."""
    from bt_ray.data.stream.ingest import worker_blocks

    ends = []
    for columns in worker_blocks(part):
        pair = [torch.from_numpy(columns[name]) for name in ("view_a", "view_b")]
        assert pair[0].shape == pair[1].shape
        ends.append(time.perf_counter())
    return steady(ends, GLOBAL_BATCH)


class watched_store:  # noqa: N801 - read as a phrase
    """Watches how many bytes of Ray's object store are in use; the most is the only item."""

    def __enter__(self) -> list[float]:
        self._most, self._ended = [0.0], threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self._most

    def _watch(self) -> None:
        import ray

        while not self._ended.wait(0.2):
            free = ray.available_resources().get("object_store_memory", 0.0)
            used = ray.cluster_resources().get("object_store_memory", 0.0) - free
            self._most[0] = max(self._most[0], used)

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def in_bare_loops(settings: Settings, steps: int) -> Measured:
    """The same operations without Ray: a process a core, each with its share of every step."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(CORES, mp_context=context) as pool:
        list(pool.map(time.sleep, [1] * CORES))  # they are up
        shares = list(pool.map(partial(_bare_loop, settings, steps), range(CORES)))
    return {"images_per_s": settings.data.global_batch * steps / max(shares)}


def _bare_loop(settings: Settings, steps: int, rank: int) -> float:
    """Seconds of one process for its share of all steps."""
    torch.set_num_threads(1)
    shards = ShardSet.open(settings.data.train)
    plan = build_plan(settings, shards.manifest)
    size = plan.global_batch // CORES
    began = 0.0
    for span in plan.spans(0, steps):
        table = read_steps(shards, plan, span.first_step, min(steps, span.stop_step))
        for first in range(rank * size, table.num_rows, plan.global_batch):
            columns = make_views(table.slice(first, size), settings, plan.steps_per_epoch)
            assert torch.from_numpy(columns["view_a"]).shape[0] == size
            began = began or time.perf_counter()
    return (time.perf_counter() - began) * steps / (steps - 1)


class ReferenceViews(Dataset[tuple[NDArray[np.uint8], NDArray[np.uint8]]]):
    """Two views of each image file in each epoch, made with Pillow."""

    def __init__(self, folder: Path, epochs: int) -> None:
        self._files, self._epochs = sorted(folder.iterdir()), epochs

    def __len__(self) -> int:
        return len(self._files) * self._epochs

    def __getitem__(self, place: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        epoch, row = divmod(place, len(self._files))
        image = reference.decode(self._files[row].read_bytes())
        view_a, view_b = (self._view(image, row, epoch, view) for view in (0, 1))
        return view_a, view_b

    def _view(self, image: Any, row: int, epoch: int, view: int) -> NDArray[np.uint8]:
        drawn = draw(
            ViewSettings(), seed=0, epoch=epoch, view=view, samples=np.array([row]),
            widths=np.array([image.width]), heights=np.array([image.height]),
        )  # fmt: skip
        finished = reference.photometry(reference.crop(image, drawn, 0, 224), drawn, 0, 128)
        return np.ascontiguousarray(np.asarray(finished).transpose(2, 0, 1))


def through_dataloader(folder: Path, epochs: int) -> Measured:
    """Torch's DataLoader with a process a core, once they are up: a third of the epochs."""
    loader = DataLoader(
        ReferenceViews(folder, max(1, epochs // 3)),
        batch_size=GLOBAL_BATCH,
        shuffle=True,
        num_workers=CORES,
        drop_last=True,
    )
    return {"images_per_s": steady([time.perf_counter() for _ in loader], GLOBAL_BATCH)}
