"""Ray Train, driven: workers that are replaced, errors that are told, signals that are ours."""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import ray.data
import ray.train
from ray.exceptions import ActorDiedError
from ray.train import (
    CheckpointConfig,
    DataConfig,
    FailureConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    UserCallback,
)
from ray.train.torch import TorchTrainer

from bt_ray import errors
from bt_ray.checkpoints.checkpoint import KEPT_CHECKPOINTS, last_checkpoint
from bt_ray.config import Settings
from bt_ray.cpu.allocator import KEEP_FREED_MEMORY
from bt_ray.data.stream.ingest import build_dataset
from bt_ray.errors import RunFailedError
from bt_ray.training.cluster import uses_gpu
from bt_ray.training.worker import FAILURE

T = TypeVar("T")

_TRAIN = "train"
_STARTS_WAITED_FOR = 10  # of a minute each, for resources that a lost node took along


def fit(
    work: Callable[[dict[str, Any]], None],
    order: Mapping[str, Any],
    settings: Settings,
    run_folder: Path,
    total_steps: int,
    callbacks: Sequence[UserCallback] = (),
) -> None:
    """Has each worker do `work(order)` on its part of the data, to the run's last step.

    Workers that are lost are replaced, and go on from the last checkpoint.

    Args:
      work: importable, as it travels by reference.
      settings: whose `data` are streamed to the workers, and how many of those there are.
    Raises: RunFailedError if the cluster gave up; the error of bt_ray that a worker left in
      `run_folder` (`worker.telling_failures`).
    """
    failure = run_folder / FAILURE
    failure.unlink(missing_ok=True)
    for attempts_left in range(settings.scaling.max_failures, -1, -1):
        try:
            beside(_trainer(work, order, settings, run_folder, total_steps, callbacks).fit)
            break
        except ActorDiedError as error:  # Ray Train's controller, which Ray does not replace
            if not attempts_left:
                raise RunFailedError(f"Ray Train's controller died too often: {error}") from error
        except TrainingFailedError as error:
            raise RunFailedError(_why(error)) from error
    if failure.is_file():
        reason = json.loads(failure.read_text())
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
    outcome: Future[T] = Future()

    def work() -> None:
        try:
            outcome.set_result(job())
        except BaseException as error:  # handed to who waits, whatever it is
            outcome.set_exception(error)

    threading.Thread(target=work, name="fit", daemon=True).start()
    return outcome.result()


def _trainer(
    work: Callable[[dict[str, Any]], None],
    order: Mapping[str, Any],
    settings: Settings,
    run_folder: Path,
    total_steps: int,
    callbacks: Sequence[UserCallback],
) -> TorchTrainer:
    return TorchTrainer(
        work,
        train_loop_config=dict(order),
        scaling_config=ScalingConfig(
            num_workers=settings.scaling.workers,
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
            worker_runtime_env={"env_vars": KEEP_FREED_MEMORY},
        ),
        datasets={"train": partial(_remaining_dataset, settings, run_folder, total_steps)},
        # In order and in turn, nothing by locality: a block belongs to one worker.
        dataset_config=DataConfig(
            execution_options=ray.data.ExecutionOptions(preserve_order=True),
            enable_shard_locality=False,
        ),
    )


def _remaining_dataset(settings: Settings, run_folder: Path, total_steps: int) -> ray.data.Dataset:
    """Called whenever workers are (re)started: what the last checkpoint leaves to be done."""
    _, start = last_checkpoint(run_folder)
    return build_dataset(settings, start=start, stop=total_steps)
