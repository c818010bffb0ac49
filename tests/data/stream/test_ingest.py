"""Ray Data hands each worker what the plan gives it, however the work is divided."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import ray.data
import torch
from numpy.typing import NDArray

from bt_ray.config import Settings, override
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream import ingest
from bt_ray.data.stream.batches import check_place, local_batches
from bt_ray.data.stream.digest import to_text
from bt_ray.data.stream.ingest import build_dataset, worker_blocks
from bt_ray.data.stream.plan import worker_rows

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


def streamed_digest(settings: Settings, start: int, workers: int) -> str:
    """Of all that Ray Data's workers are handed, each at its own pace, in its right place."""
    dataset = build_dataset(settings, start=start, stop=STEPS, workers=workers)
    rows = worker_rows(settings.data.global_batch, workers)
    parts = dataset.streaming_split(workers, equal=True)

    def consume(rank: int) -> int:
        total, blocks = 0, list[dict[str, NDArray[Any]]](worker_blocks(parts[rank]))
        for step, columns in enumerate(blocks, start=start):
            check_place(columns, step, rank, rows[rank], sum(rows[:rank]))
            total += int(np.sum(columns["digest"], dtype=np.uint64))
        assert len(blocks) == STEPS - start
        return total

    with ThreadPoolExecutor(workers) as pool:
        return to_text(sum(pool.map(consume, range(workers))))


@pytest.mark.parametrize(
    ("workers", "readers", "steps_of_a_row", "start"),
    [
        (1, 1, 16, 0),
        (2, 1, 1, 0),
        (2, 3, 2, 3),
        (3, 1, 4, 2),  # of 43, 43 and 42 images
        (4, 2, 3, 5),
        pytest.param(4, 2, 1, 0, marks=pytest.mark.slow),
        pytest.param(2, 4, 8, 3, marks=pytest.mark.slow),
    ],
)
def test_the_stream_is_the_plans_on_any_number_of_workers_and_readers_from_any_step(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
    readers: int,
    steps_of_a_row: int,
    start: int,
) -> None:
    monkeypatch.setattr(ingest, "num_readers", lambda *_: readers)
    monkeypatch.setattr(ingest, "steps_of_a_row", lambda _: steps_of_a_row)
    assert streamed_digest(settings, start, workers) == local_digest(settings, start)
