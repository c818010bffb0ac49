"""Ray Data follows the plan: read windows → worker batches, in order → decode and crop.

A row of the data set is one worker's part of one step, a block holds one row, and order is
preserved; an equal split then hands the blocks to the workers in turn. Place is part of the
contract: a row carries its step and slot, and each worker checks that
it gets the rows of the plan (`batches.check_place`).
"""

import math
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, cast

import numpy as np
import pyarrow as pa
import ray.data
from numpy.typing import NDArray
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from bt_ray.config import Settings
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.decode import Columns, make_views, read_steps
from bt_ray.data.stream.plan import Plan, Span, build_plan
from bt_ray.data.stream.spares import find_spares
from bt_ray.ray_internals import schedule_attentively

_MOST_READ_TASKS = 2000
_WINDOWS_READ_AT_ONCE = 2
_PREFETCHED_BATCHES = 2
_CPUS_OF_A_DECODER = 0.66
"""Three decode on two cores: no core waits for Ray to bring the next task. Ray Data rounds 2/3 to
0.66667, of which only two fit."""


class PlanSource(Datasource):
    """The encoded samples of steps `start` to `stop`, in the plan's order.

    A read task goes through some consecutive windows, one after the other.
    """

    def __init__(
        self, shards: ShardSet, plan: Plan, *, workers: int, start: int, stop: int
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._shards, self._plan, self._workers = shards, plan, workers
        self._start, self._stop = start, stop

    def estimate_inmemory_data_size(self) -> None:
        """Unknown to Ray, which would cut blocks by it."""

    def get_read_tasks(
        self,
        parallelism: int,
        per_task_row_limit: int | None = None,
        data_context: ray.data.DataContext | None = None,
    ) -> list[ReadTask]:
        """Tasks of equally many windows, whatever the parallelism."""
        spans = list(self._plan.spans(self._start, self._stop))
        size = math.ceil(len(spans) / _MOST_READ_TASKS)
        return [self._task(spans[i : i + size]) for i in range(0, len(spans), size)]

    def _task(self, spans: list[Span]) -> ReadTask:
        start = max(spans[0].first_step, self._start)
        stop = min(spans[-1].stop_step, self._stop)
        metadata = BlockMetadata(
            num_rows=(stop - start) * self._workers,
            size_bytes=None,
            input_files=None,
            exec_stats=None,
        )
        return ReadTask(
            partial(_read, self._shards, self._plan, self._workers, start, stop), metadata
        )


def _read(shards: ShardSet, plan: Plan, workers: int, start: int, stop: int) -> Iterator[pa.Table]:
    """Tables of one row each: a worker's part of a step, its columns packed into lists."""
    size = plan.global_batch // workers
    for span in plan.spans(start, stop):
        table = read_steps(shards, plan, max(start, span.first_step), min(stop, span.stop_step))
        for first in range(0, table.num_rows, size):
            yield _pack(table.slice(first, size))


def _pack(table: pa.Table) -> pa.Table:
    """All rows of `table` as one row of lists."""
    ends = pa.array([0, table.num_rows], pa.int32())
    columns = [pa.concat_arrays(column.chunks) for column in table.columns]
    lists = [pa.ListArray.from_arrays(ends, column) for column in columns]
    return pa.table(lists, table.column_names)


def _unpack(table: pa.Table) -> pa.Table:
    """The table that `_pack` made one row of."""
    return pa.table(
        [pa.concat_arrays(column.chunks).flatten() for column in table.columns],
        table.column_names,
    )


def _decode(block: pa.Table, settings: Settings, shards: ShardSet, plan: Plan) -> Columns:
    spares = partial(find_spares, shards, plan)
    columns = make_views(_unpack(block), settings, plan.steps_per_epoch, spares)
    return {name: values[np.newaxis] for name, values in columns.items()}


def build_dataset(settings: Settings, *, start: int, stop: int) -> ray.data.Dataset:
    """A data set whose rows are the workers' parts of steps `start` to `stop`, one a block."""
    context = ray.data.DataContext.get_current()
    context.target_max_block_size = 1  # byte, so that every row is a block of its own
    schedule_attentively(context)
    shards = ShardSet.open(settings.data.train)
    plan = build_plan(settings, shards.manifest)
    source = PlanSource(shards, plan, workers=settings.scaling.workers, start=start, stop=stop)
    # Readers wait for storage more than they compute, and must not hold the last free CPU
    # while the decoders they wait for want it.
    encoded = ray.data.read_datasource(
        source,
        override_num_blocks=1,
        concurrency=_WINDOWS_READ_AT_ONCE,
        num_cpus=0,
    )
    decoded: ray.data.Dataset = encoded.map_batches(
        _decode,
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        num_cpus=_CPUS_OF_A_DECODER,
        fn_kwargs={"settings": settings, "shards": shards, "plan": plan},
    )
    return decoded


def worker_blocks(iterator: ray.data.DataIterator) -> Iterator[dict[str, NDArray[Any]]]:
    """The columns of `make_views` for each of this worker's steps."""
    rows = iterator.iter_batches(
        batch_size=1, batch_format="numpy", prefetch_batches=_PREFETCHED_BATCHES
    )
    for columns in cast(Iterable[dict[str, NDArray[Any]]], rows):
        yield {name: values[0] for name, values in columns.items()}
