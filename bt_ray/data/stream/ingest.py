"""Ray Data follows the plan: name steps → read their windows → decode and crop, all in order.

A row of the data set is one worker's part of some consecutive steps, a block holds one row, and
order is preserved; an equal split then hands the blocks to the workers in turn. Each block costs
Ray's one scheduling process about ten milliseconds, so a row is worth seconds of a worker's time.
The worker cuts it into steps. Place is part of the contract: a row carries steps and slots, and
each worker checks that it gets the rows of the plan (`batches.check_place`).

Readers and decoders are actors, which stay. Ray ends a task's process that has been idle for a
second; as tasks, decoders would come and go whenever they make more than training takes, and each
would import what it needs again.
"""

import math
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import accumulate, pairwise
from typing import Any, cast

import numpy as np
import pyarrow as pa
import ray.data
from numpy.typing import NDArray
from ray.data import ActorPoolStrategy
from ray.data.block import BlockMetadata
from ray.data.context import AutoscalingConfig
from ray.data.datasource import Datasource, ReadTask

from bt_ray.config import Settings
from bt_ray.data.shards.manifest import Manifest
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.decode import Columns, MakeViews, bytes_of_views, make_views
from bt_ray.data.stream.plan import Plan, build_plan, chunks, worker_rows
from bt_ray.data.stream.spares import find_spares
from bt_ray.data.stream.window import HeldWindow, parts, samples_of
from bt_ray.ray_internals import Limits, limit_blocks_ahead, schedule_attentively

_IMAGES_OF_A_ROW = 2048
_BYTES_OF_A_ROW = 216 * 10**6
_CHUNK_BYTES_OF_A_WORKER = 96 * 10**6
"""Of encoded images, if one window does not hold more."""
_IMAGES_PER_S = 250
"""What a worker takes: 32 V100 at a good step take 8,000."""
_READER_BYTES_PER_S = 250e6
_MOST_READERS = 32
_PREFETCHED_ROWS = 1
_CPUS_OF_A_DECODER = 1.0
_NEVER = -1.0
_IO_THREADS = 16
"""Of pyarrow in a reader's process, which has eight otherwise."""


def steps_of_a_row(settings: Settings) -> int:
    """How many steps a row holds at most: 2,048 images, or 216 MB of views."""
    size = math.ceil(settings.data.global_batch / max(1, settings.scaling.min_workers))
    image_bytes = bytes_of_views(settings)
    return max(1, min(_IMAGES_OF_A_ROW // size, _BYTES_OF_A_ROW // (size * image_bytes)))


def num_readers(settings: Settings, manifest: Manifest) -> int:
    """How many windows are read at once, so that all workers get what GPUs take."""
    image_bytes = manifest.num_bytes / max(1, manifest.num_rows)
    bytes_per_s = settings.scaling.max_workers * _IMAGES_PER_S * image_bytes
    return min(_MOST_READERS, max(1, math.ceil(bytes_per_s / _READER_BYTES_PER_S)))


class PlanSource(Datasource):
    """The steps `start` to `stop`, in order, in chunks that are read at once.

    Rows have the columns `start` and `stop`, of whole windows of the plan.
    """

    def __init__(self, plan: Plan, *, start: int, stop: int, most_steps: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._plan, self._most_steps = plan, most_steps
        self._start, self._stop = start, stop

    def estimate_inmemory_data_size(self) -> None:
        """Unknown to Ray, which would cut blocks by it."""

    def get_read_tasks(
        self,
        parallelism: int,
        per_task_row_limit: int | None = None,
        data_context: ray.data.DataContext | None = None,
    ) -> list[ReadTask]:
        """One task, whatever the parallelism: it goes on as its chunks are taken."""
        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        name = partial(_name_chunks, self._plan, self._start, self._stop, self._most_steps)
        return [ReadTask(name, metadata)]


def _name_chunks(plan: Plan, start: int, stop: int, most_steps: int) -> Iterator[pa.Table]:
    for first, last in chunks(plan, start, stop, most_steps):
        yield pa.table({"start": [first], "stop": [last]})


class Reader:
    """Reads chunks, and packs each worker's part of some steps into a row.

    Args:
      start: the first step of all; the first rows from there on hold one step, then two, and so
        on, so that training begins before a whole row is decoded.
    """

    def __init__(
        self, shards: ShardSet, plan: Plan, *, workers: int, start: int, most_steps: int
    ) -> None:
        pa.set_io_thread_count(_IO_THREADS)
        self._shards, self._plan, self._workers = shards, plan, workers
        self._start, self._most_steps = start, most_steps

    def __call__(self, chunk: pa.Table) -> Iterator[pa.Table]:
        """Tables of one row each, their columns packed into lists."""
        start, stop = chunk["start"][0].as_py(), chunk["stop"][0].as_py()
        steps = [max(start, span.first_step) for span in self._plan.spans(start, stop)]
        rows = worker_rows(self._plan.global_batch, self._workers)
        slots = list(pairwise(accumulate(rows, initial=0)))
        held: list[HeldWindow] = []
        with ThreadPoolExecutor(1, "windows") as pool:  # the next one, while this one is packed
            windows = pool.map(partial(HeldWindow.read, self._shards, self._plan), steps)
            for first, last in parts(start, stop, self._most_steps, slowly=start == self._start):
                held = [window for window in held if window.span.stop_step > first]
                while not held or held[-1].span.stop_step < last:
                    held.append(next(windows))
                for begin, end in slots:
                    yield _pack(samples_of(held, first, last, begin, end - begin))


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


class Decoder:
    """Makes the views of a row's steps, one step after the other."""

    def __init__(self, settings: Settings, shards: ShardSet, plan: Plan, make: MakeViews) -> None:
        self._settings, self._make = settings, make
        self._steps_per_epoch = plan.steps_per_epoch
        self._spares = partial(find_spares, shards, plan)

    def __call__(self, row: pa.Table) -> Columns:
        """The row's columns, one row of arrays over all of its steps."""
        table = _unpack(row)
        cuts = _cuts(table["step"].to_numpy())
        made = [
            self._make(table.slice(a, b - a), self._settings, self._steps_per_epoch, self._spares)
            for a, b in cuts
        ]
        if len(made) == 1:
            return {name: values[np.newaxis] for name, values in made[0].items()}
        return {name: np.concatenate([m[name] for m in made])[np.newaxis] for name in made[0]}


def _cuts(steps: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Where each step begins and ends."""
    edges = [0, *(np.flatnonzero(np.diff(steps)) + 1).tolist(), len(steps)]
    return list(pairwise(edges))


def build_dataset(
    settings: Settings,
    *,
    start: int,
    stop: int,
    workers: int | None = None,
    most_decoders: int | None = None,
    make: MakeViews = make_views,
) -> ray.data.Dataset:
    """A data set whose rows are the workers' parts of steps `start` to `stop`, one a block.

    Args:
      workers: that there are now; none: as many as the settings say, of a range the fewest.
      most_decoders: none: as many as the cluster has CPUs for, and training takes.
      make: what makes the columns of a step.
    """
    context = ray.data.DataContext.get_current()
    context.target_max_block_size = 1  # byte, so that every row is a block of its own
    schedule_attentively(context)
    shards = ShardSet.open(settings.data.train)
    plan = build_plan(settings, shards.manifest)
    workers = settings.scaling.min_workers if workers is None else workers
    most_steps = steps_of_a_row(settings)
    readers = num_readers(settings, shards.manifest)
    step_bytes = plan.global_batch * shards.manifest.num_bytes // shards.manifest.num_rows
    source = PlanSource(
        plan,
        start=start,
        stop=stop,
        most_steps=min(most_steps, workers * _CHUNK_BYTES_OF_A_WORKER // max(1, step_bytes)),
    )
    # Readers wait for storage more than they compute, and must not hold the last free CPU
    # while the decoders they wait for want it.
    chunk_names = ray.data.read_datasource(source, override_num_blocks=1, concurrency=1, num_cpus=0)
    encoded = chunk_names.map_batches(
        cast(Any, Reader),
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        num_cpus=0,
        compute=ActorPoolStrategy(size=readers, max_tasks_in_flight_per_actor=1),
        fn_constructor_args=(shards, plan),
        fn_constructor_kwargs={"workers": workers, "start": start, "most_steps": most_steps},
    )
    decoded: ray.data.Dataset = encoded.map_batches(
        cast(Any, Decoder),
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        num_cpus=_CPUS_OF_A_DECODER,
        compute=ActorPoolStrategy(min_size=1, max_size=most_decoders),
        fn_constructor_args=(settings, shards, plan, make),
    )
    # An actor that is idle for a while is needed again; its process would have to start anew.
    decoded.context.autoscaling_config = AutoscalingConfig(
        actor_pool_util_downscaling_threshold=_NEVER
    )
    limits = Limits(chunks=readers, encoded=workers, decoded=2 * workers, run=settings.name)
    limit_blocks_ahead(decoded.context, limits)
    return decoded


def worker_blocks(iterator: ray.data.DataIterator) -> Iterator[dict[str, NDArray[Any]]]:
    """The columns of `make_views` for each of this worker's steps."""
    rows = iterator.iter_batches(
        batch_size=1, batch_format="numpy", prefetch_batches=_PREFETCHED_ROWS
    )
    for packed in cast(Iterable[dict[str, NDArray[Any]]], rows):
        columns = {name: values[0] for name, values in packed.items()}
        for first, last in _cuts(columns["step"]):
            yield {name: values[first:last] for name, values in columns.items()}
