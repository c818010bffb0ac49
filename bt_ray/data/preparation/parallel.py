"""Runs a job's tasks on a Ray cluster, by Ray Data: each on some CPU, or in long-lived actors."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pyarrow as pa
import ray
import ray.data
from ray import cloudpickle
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bt_ray.cpu.count import available_cpus
from bt_ray.data.preparation.tasks import Task
from bt_ray.data.sources import Source
from bt_ray.errors import BtRayError, DataError
from bt_ray.ray_start import join_ray

_TASKS_IN_FLIGHT = 2  # one waits while one is done
_LOOK_S = 60.0  # for all nodes to say what they reach


class _TaskSource(Datasource):
    """A Ray Data source with one row for each task: its return value, or its error."""

    def __init__(self, tasks: Sequence[Task]) -> None:
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
        return [ReadTask(partial(_read, task), metadata) for task in self._tasks]


def _read(task: Task) -> Iterator[pa.Table]:
    yield _outcome(task)


def _outcome(task: Task) -> pa.Table:
    """Runs the task; its return value, or the sentence of an error that a retry would not fix."""
    try:
        row = {"value": task(), "fault": None}
    except BtRayError as error:
        row = {"value": None, "fault": str(error)}
    return pa.Table.from_pylist(
        [row], schema=pa.schema({"value": pa.string(), "fault": pa.string()})
    )


class _Actor:
    """Runs pickled tasks, one after the other, in one process."""

    def __call__(self, packed: pa.Table) -> pa.Table:
        return pa.concat_tables(
            [_outcome(cloudpickle.loads(task.as_py())) for task in packed["task"]]
        )


def connect(cpus: int | None) -> None:
    """Joins the Ray cluster, or starts one on this machine.

    Args:
      cpus: CPUs that a started cluster offers at least; none: as many as this process may use.
    Raises: LaunchError if there is no cluster to join, or Ray does not start.
    """
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it tells of each execution
    join_ray(max(cpus or 0, available_cpus()))


@contextmanager
def joined(cpus: int | None) -> Iterator[None]:
    """Has Ray connected while the context lasts, and afterwards as it was before.

    Args:
      cpus: as in `connect`.
    """
    was_connected = ray.is_initialized()
    connect(cpus)
    try:
        yield
    finally:
        if not was_connected:
            ray.shutdown()


def nodes_without(source: Source, folder: Path | None) -> list[str]:
    """Addresses of the nodes that cannot read an image of the source, or do not see the folder.

    Without a folder, the destination is a storage that all nodes reach by its URI.

    A node that does not answer within a minute is left out: its tasks may say more.
    """
    asked = {
        _reaches.options(
            num_cpus=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        ).remote(source.take([0]), folder): node["NodeManagerAddress"]
        for node in ray.nodes()
        if node["Alive"]
    }
    answered, late = ray.wait(list(asked), num_returns=len(asked), timeout=_LOOK_S)
    for task in late:
        ray.cancel(task)
    return sorted(asked[task] for task in answered if not ray.get(task))


@ray.remote
def _reaches(source: Source, folder: Path | None) -> bool:
    try:
        return (folder is None or folder.is_dir()) and next(source.read(), None) is not None
    except DataError:
        return False


def run_on_cluster(tasks: Sequence[Task], *, cpus: int | None = None) -> Iterator[str]:
    """Yields what the tasks return, as they end; if a worker is lost, its task runs again.

    Args:
      cpus: tasks that run at the same time; none: as many as the cluster has CPUs.
    Raises: DataError with the sentence of the first task that failed; running ones still end.
    """
    if not tasks:
        return
    at_once = None if cpus is None else min(cpus, len(tasks))
    yield from _values(
        ray.data.read_datasource(
            _TaskSource(tasks), override_num_blocks=1, concurrency=at_once, num_cpus=1
        )
    )


def run_in_actors(
    tasks: Sequence[Task], *, actors: int, num_cpus: float, num_gpus: float = 0
) -> Iterator[str]:
    """Yields what the tasks return, as they end; a few long-lived processes run them all.

    What a task caches in its process, such as a loaded encoder, later tasks there find. A lost
    actor is replaced, and its task runs again.

    Args:
      actors: processes, at most.
      num_cpus, num_gpus: CPUs and GPUs of each actor.
    Raises: DataError with the sentence of the first task that failed; running ones still end.
    """
    if not tasks:
        return
    packed = ray.data.from_items(
        [{"task": cloudpickle.dumps(task)} for task in tasks], override_num_blocks=len(tasks)
    )
    yield from _values(
        packed.map_batches(
            _Actor,
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(
                size=min(actors, len(tasks)), max_tasks_in_flight_per_actor=_TASKS_IN_FLIGHT
            ),
            num_cpus=num_cpus,
            num_gpus=num_gpus,
        )
    )


def _values(outcomes: ray.data.Dataset) -> Iterator[str]:
    for row in outcomes.iter_rows():
        if row["fault"] is not None:
            raise DataError(row["fault"])
        yield row["value"]
