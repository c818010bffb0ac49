"""A worker's batches as tensors: from Ray Data's blocks, or read in this process."""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from bt_ray.config import Settings
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.block import Batch, Block, on_device, to_block
from bt_ray.data.stream.decode import MakeViews, make_views, read_steps
from bt_ray.data.stream.feed import Feed
from bt_ray.data.stream.plan import Plan, build_plan, worker_rows
from bt_ray.data.stream.spares import find_spares
from bt_ray.errors import PlanError

__all__ = ["Batch", "check_place", "local_batches", "stream_batches", "to_batch"]

Columns = Mapping[str, NDArray[Any]]


def to_batch(
    columns: Columns, settings: Settings, steps_per_epoch: int, device: torch.device
) -> Batch:
    """The columns of `make_views` as tensors on the device, with photometry if it belongs there."""
    return on_device(to_block(columns, settings, steps_per_epoch), device)


def check_place(
    columns: Columns, step: int, rank: int, num_rows: int, first: int | None = None
) -> None:
    """Raises PlanError unless these are exactly the rows that the plan gives this worker now.

    Args:
      first: of the worker's `num_rows` slots of the step; none: where all have so many.
    """
    steps, slots = columns["step"], columns["slot"]
    first = rank * num_rows if first is None else first
    if not (
        len(steps) == num_rows
        and (steps == step).all()
        and np.array_equal(slots, np.arange(first, first + num_rows))
    ):
        raise PlanError(
            f"Worker {rank} expected slots {first} to {first + num_rows - 1} of step {step} and "
            f"got {len(slots)} rows from slot {slots[0]} of step {steps[0]}."
        )


def stream_batches(
    blocks: Iterable[Columns],
    settings: Settings,
    *,
    start: int,
    rank: int,
    world_size: int,
    steps_per_epoch: int,
    device: torch.device,
) -> Feed:
    """This worker's batches from step `start` on, made of the blocks that were streamed to it.

    The feed raises PlanError if a block holds other rows than the plan's.
    """
    rows = worker_rows(settings.data.global_batch, world_size)
    first, num_rows = sum(rows[:rank]), rows[rank]

    def checked() -> Iterator[Block]:
        for step, columns in enumerate(blocks, start=start):
            check_place(columns, step, rank, num_rows, first)
            yield to_block(columns, settings, steps_per_epoch)

    return Feed(checked(), device)


def local_batches(
    settings: Settings,
    shards: ShardSet,
    *,
    start: int,
    stop: int,
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
    make: MakeViews = make_views,
) -> Feed:
    """The batches of steps `start` to `stop`, read and decoded in this process.

    Args:
      make: what makes the columns of a step.
    """
    plan = build_plan(settings, shards.manifest)
    rows = worker_rows(settings.data.global_batch, world_size)
    first = sum(rows[:rank])

    def blocks() -> Iterator[Block]:
        spares = partial(find_spares, shards, plan)
        for table in _read_tables(shards, plan, start, stop):
            part = table.slice(first, rows[rank])
            columns = make(part, settings, plan.steps_per_epoch, spares)
            yield to_block(columns, settings, plan.steps_per_epoch)

    return Feed(blocks(), device)


def _read_tables(shards: ShardSet, plan: Plan, start: int, stop: int) -> Iterator[pa.Table]:
    """The global batches of these steps, one after the other."""
    for span in plan.spans(start, stop):
        table = read_steps(shards, plan, max(start, span.first_step), min(stop, span.stop_step))
        for first in range(0, table.num_rows, plan.global_batch):
            yield table.slice(first, plan.global_batch)
