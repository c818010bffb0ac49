"""Ray Data follows the plan: read windows → worker batches in order → decode and crop.

A row's place is part of the contract. `PlanSource` reads the plan's windows, a strict
repartition cuts their rows into blocks of exactly one worker batch, order is preserved, and
an equal split hands such blocks to the workers in turn; each worker checks that the rows it
is handed are those the plan gives it.
"""

from collections.abc import Iterable
from functools import partial

import pyarrow as pa
import ray.data
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from bt_ray.config import Settings
from bt_ray.data.decode import make_views, read_steps
from bt_ray.data.plan import Plan, build_plan
from bt_ray.data.shards import ShardSet


class PlanSource(Datasource):
    """The encoded samples of steps `start` to `stop`, in the plan's order; a window a task."""

    def __init__(self, shards: ShardSet, plan: Plan, *, start: int, stop: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._shards, self._plan, self._start, self._stop = shards, plan, start, stop

    def estimate_inmemory_data_size(self) -> int:
        """Bytes of all encoded samples that will be read."""
        manifest = self._shards.manifest
        num_rows = (self._stop - self._start) * self._plan.global_batch
        return manifest.num_bytes * num_rows // manifest.num_rows

    def get_read_tasks(
        self,
        parallelism: int,
        per_task_row_limit: int | None = None,
        data_context: ray.data.DataContext | None = None,
    ) -> list[ReadTask]:
        """One task a window, whatever the parallelism: fewer would only read sooner."""
        bytes_per_row = self._shards.manifest.num_bytes // self._shards.manifest.num_rows
        tasks = []
        for span in self._plan.spans(self._start, self._stop):
            start, stop = max(span.first_step, self._start), min(span.stop_step, self._stop)
            num_rows = (stop - start) * self._plan.global_batch
            metadata = BlockMetadata(
                num_rows=num_rows,
                size_bytes=num_rows * bytes_per_row,
                input_files=None,
                exec_stats=None,
            )
            tasks.append(ReadTask(partial(_read, self._shards, self._plan, start, stop), metadata))
        return tasks


def _read(shards: ShardSet, plan: Plan, start: int, stop: int) -> Iterable[pa.Table]:
    return [read_steps(shards, plan, start, stop)]


def build_dataset(settings: Settings, *, start: int, stop: int) -> ray.data.Dataset:
    """A data set of worker batches: one block is one worker's part of one step."""
    context = ray.data.DataContext.get_current()
    context.target_max_block_size = None
    shards = ShardSet.open(settings.data.train)
    plan = build_plan(settings, shards.manifest)
    rows_per_worker = plan.global_batch // settings.scaling.workers
    dataset: ray.data.Dataset = (
        ray.data.read_datasource(
            PlanSource(shards, plan, start=start, stop=stop), override_num_blocks=1
        )
        .repartition(target_num_rows_per_block=rows_per_worker, strict=True)
        .map_batches(
            make_views,
            batch_size=None,
            batch_format="pyarrow",
            zero_copy_batch=True,
            fn_kwargs={"settings": settings, "steps_per_epoch": plan.steps_per_epoch},
        )
    )
    return dataset
