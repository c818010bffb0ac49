"""Ray Data hands each worker what the plan gives it, however the work is divided."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import ray.data
import torch
from numpy.typing import NDArray
from ray.data._internal.execution.interfaces import ExecutionResources

from bt_ray.config import Settings, override
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream import ingest
from bt_ray.data.stream.batches import check_place, local_batches
from bt_ray.data.stream.digest import to_text
from bt_ray.data.stream.ingest import build_dataset, worker_blocks

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

STEPS = 8


@pytest.fixture
def settings(small_settings: Settings) -> Settings:
    """Four epochs of two steps, a window a step: eight windows."""
    return override(small_settings, {"schedule.epochs": 4, "data.window_mb": 1})


def local_digest(settings: Settings, start: int) -> str:
    shards = ShardSet.open(settings.data.train)
    device = torch.device("cpu")
    batches = local_batches(settings, shards, start=start, stop=STEPS, device=device)
    return to_text(sum(batch.digest for batch in batches))


@pytest.fixture(autouse=True)
def _in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    options = ray.data.DataContext.get_current().execution_options
    monkeypatch.setattr(options, "preserve_order", True)


def streamed_digest(settings: Settings, start: int) -> str:
    """Of all that Ray Data's workers are handed, each at its own pace, in its right place."""
    workers = settings.scaling.workers
    dataset = build_dataset(settings, start=start, stop=STEPS)
    parts = dataset.streaming_split(workers, equal=True)

    def consume(rank: int) -> int:
        total, blocks = 0, list[dict[str, NDArray[Any]]](worker_blocks(parts[rank]))
        for step, columns in enumerate(blocks, start=start):
            check_place(columns, step, rank, settings.data.global_batch // workers)
            total += int(np.sum(columns["digest"], dtype=np.uint64))
        assert len(blocks) == STEPS - start
        return total

    with ThreadPoolExecutor(workers) as pool:
        return to_text(sum(pool.map(consume, range(workers))))


@pytest.mark.parametrize(
    ("workers", "read_tasks", "windows_at_once", "start"),
    [
        (1, 2000, 2, 0),
        (2, 1, 1, 0),
        (2, 3, 4, 3),
        (4, 2, 2, 5),
        pytest.param(4, 2000, 2, 0, marks=pytest.mark.slow),
        pytest.param(2, 2000, 2, 3, marks=pytest.mark.slow),
    ],
)
def test_the_stream_is_the_plans_on_any_number_of_workers_and_read_tasks_from_any_step(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
    read_tasks: int,
    windows_at_once: int,
    start: int,
) -> None:
    monkeypatch.setattr(ingest, "_MOST_READ_TASKS", read_tasks)
    monkeypatch.setattr(ingest, "_WINDOWS_READ_AT_ONCE", windows_at_once)
    divided = override(settings, {"scaling.workers": workers})
    assert streamed_digest(divided, start) == local_digest(settings, start)


def test_three_decoders_fit_on_two_cpus_as_ray_data_counts_them() -> None:
    one = ExecutionResources(cpu=ingest._CPUS_OF_A_DECODER)
    left = ExecutionResources(cpu=2).subtract(one).subtract(one)
    assert one.satisfies_limit(left)
