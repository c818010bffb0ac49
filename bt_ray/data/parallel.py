"""A preparation's tasks on many CPUs, by Ray Data."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pyarrow as pa
import ray
import ray.data
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from bt_ray.errors import BtRayError, DataError


class _TaskSource(Datasource):
    """One row for each task: what it returned, or its fault."""

    def __init__(self, tasks: Sequence[Callable[[], str]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tasks = tasks

    def estimate_inmemory_data_size(self) -> None:
        """Next to nothing, which is no reason to run several tasks as one."""

    def get_read_tasks(
        self,
        parallelism: int,
        per_task_row_limit: int | None = None,
        data_context: ray.data.DataContext | None = None,
    ) -> list[ReadTask]:
        """One for each task, whatever the parallelism."""
        metadata = BlockMetadata(num_rows=1, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(partial(_outcome, task), metadata) for task in self._tasks]


def _outcome(task: Callable[[], str]) -> Iterator[pa.Table]:
    """The task's return value, or the sentence of an error that trying again would not mend."""
    try:
        row = {"value": task(), "fault": None}
    except BtRayError as error:
        row = {"value": None, "fault": str(error)}
    yield pa.Table.from_pylist(
        [row], schema=pa.schema({"value": pa.string(), "fault": pa.string()})
    )


def connect(cpus: int | None) -> None:
    """Joins the Ray cluster, or starts one here for `cpus` tasks at once; none: one a CPU."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it tells of each execution
    if ray.is_initialized():
        return
    is_local = "RAY_ADDRESS" not in os.environ and "RAY_JOB_ID" not in os.environ
    ray.init(
        address="local" if is_local else None,
        num_cpus=max(cpus or 0, os.cpu_count() or 1) if is_local else None,
        include_dashboard=False if is_local else None,
        log_to_driver=False,
        logging_level=logging.WARNING,
    )


def run_on_cluster(tasks: Sequence[Callable[[], str]], *, cpus: int | None = None) -> Iterator[str]:
    """What the tasks return, as they end; a task whose worker was lost runs again elsewhere.

    Args:
      cpus: tasks at once; none: as many as the cluster has CPUs.
    Raises: DataError with the sentence of the first task that failed; those under way end.
    """
    if not tasks:
        return
    at_once = None if cpus is None else min(cpus, len(tasks))
    dataset = ray.data.read_datasource(
        _TaskSource(tasks), override_num_blocks=1, concurrency=at_once, num_cpus=1
    )
    for row in dataset.iter_rows():
        if row["fault"] is not None:
            raise DataError(row["fault"])
        yield row["value"]
