"""Ray Train, driven: it replaces lost workers; errors and signals are handled here."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import ray.data
import ray.train
from ray.exceptions import ActorDiedError
from ray.train import (
    CheckpointConfig,
    FailureConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    UserCallback,
)
from ray.train.torch import TorchTrainer

from bt_ray import errors
from bt_ray.checkpoints.checkpoint import KEPT_CHECKPOINTS, newest_checkpoint
from bt_ray.config import Settings
from bt_ray.cpu.allocator import KEEP_FREED_MEMORY
from bt_ray.data.stream.ingest_group import DataForGroup, Steps
from bt_ray.errors import RunFailedError
from bt_ray.json_files import read_json
from bt_ray.training.assignment import Assignment
from bt_ray.training.background import begin_beside
from bt_ray.training.cluster import cpus_needed, uses_gpu
from bt_ray.training.elastic import follow_cluster, num_workers
from bt_ray.training.worker import FAILURE, train_worker

T = TypeVar("T")

_TRAIN = "train"
_STARTS_WAITED_FOR = 10  # of a minute each, for resources that a lost node took along


def fit(assignment: Assignment, total_steps: int, callbacks: Sequence[UserCallback] = ()) -> None:
    """Has Ray Train's workers carry out the assignment, to step `total_steps`.

    Workers that are lost are replaced, and go on from the last checkpoint.

    Args:
      callbacks: told by Ray Train of every report.
    Raises: RunFailedError if the cluster gave up; the error of bt_ray that a worker left in the
      run's folder (`worker.telling_failures`).
    """
    settings, run_folder = assignment.settings, assignment.run_folder
    failure = run_folder / FAILURE
    failure.unlink(missing_ok=True)
    for attempts_left in range(settings.scaling.max_failures, -1, -1):
        try:
            beside(_trainer(assignment, total_steps, callbacks).fit)
            break
        except ActorDiedError as error:  # Ray Train's controller, which Ray does not replace
            if not attempts_left:
                raise RunFailedError(f"Ray Train's controller died too often: {error}") from error
        except TrainingFailedError as error:
            raise RunFailedError(_why(error)) from error
    if (reason := read_json(failure)) is not None:
        raise getattr(errors, reason["error"])(reason["message"])


def _why(error: TrainingFailedError) -> str:
    """What a person needs of Ray Train's report: the last line of the first worker's trace."""
    failures = getattr(error, "worker_failures", {})
    rank = min(failures, default=None)
    cause = error if rank is None else failures[rank]
    last_line = str(cause).strip().splitlines()[-1]
    place = "" if rank is None else f" on worker {rank}"
    return (
        f"Ray Train gave up on the run{place}: {last_line} What is saved is kept; the same command "
        "continues it."
    )


def beside(job: Callable[[], T]) -> T:
    """What `job` returns, called in another thread.

    In the main one, Ray would take over SIGINT, and abort without a checkpoint.
    """
    return begin_beside(job, "fit").result()


def _trainer(
    assignment: Assignment, total_steps: int, callbacks: Sequence[UserCallback]
) -> TorchTrainer:
    settings, run_folder = assignment.settings, assignment.run_folder
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"assignment": assignment},
        scaling_config=ScalingConfig(
            num_workers=num_workers(settings.scaling),  # type: ignore[arg-type]
            use_gpu=uses_gpu(settings),
            resources_per_worker={"CPU": settings.scaling.cpus_per_worker},
        ),
        run_config=RunConfig(
            name=_TRAIN,
            storage_path=str(run_folder),
            failure_config=FailureConfig(
                max_failures=settings.scaling.max_failures,
                controller_failure_limit=_STARTS_WAITED_FOR,  # type: ignore[call-arg]
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=KEPT_CHECKPOINTS),
            callbacks=list(callbacks),  # type: ignore[arg-type]
            worker_runtime_env={"env_vars": {} if uses_gpu(settings) else KEEP_FREED_MEMORY},
        ),
        datasets={
            "train": partial(  # type: ignore[dict-item]
                _remaining_steps, settings, run_folder, total_steps, _most_decoders(settings)
            )
        },
        # In order and in turn, nothing by locality: a block belongs to one worker.
        dataset_config=DataForGroup(
            execution_options=ray.data.ExecutionOptions(preserve_order=True),
            enable_shard_locality=False,
        ),
    )
    if settings.scaling.is_elastic:
        follow_cluster(trainer, settings.scaling, total_steps)
    return trainer


def _most_decoders(settings: Settings) -> int | None:
    """A trial's share of the CPUs that all trials at once leave; none, all, if the run is alone.

    Decoders keep their CPUs, so that a trial that took more would leave none to the next one.
    """
    if ray.util.get_current_placement_group() is None:
        return None
    available = ray.cluster_resources()
    runs = available.get("CPU", 0) / cpus_needed(settings)
    if uses_gpu(settings):
        runs = min(runs, available["GPU"] / settings.scaling.min_workers)
    workers = settings.scaling.min_workers * settings.scaling.cpus_per_worker
    return max(1, int(available.get("CPU", 0) / max(1, int(runs)) - workers))


def _remaining_steps(
    settings: Settings, run_folder: Path, total_steps: int, most_decoders: int | None
) -> Steps:
    """Called whenever workers are (re)started: what the last checkpoint leaves to be done."""
    _, start = newest_checkpoint(run_folder)
    return Steps(settings, start, total_steps, most_decoders)
