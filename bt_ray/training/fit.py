"""Ray Train, driven: it replaces lost workers; errors and signals are handled here."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypeVar

import ray.data
import ray.train
from ray.exceptions import RayActorError
from ray.train import (
    CheckpointConfig,
    FailureConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    UserCallback,
)
from ray.train.torch import TorchTrainer

from bt_ray.checkpoints.checkpoint import KEPT_CHECKPOINTS, newest_checkpoint
from bt_ray.config import Settings
from bt_ray.cpu.allocator import KEEP_FREED_MEMORY
from bt_ray.data.location import locate, refusal
from bt_ray.data.stream.ingest_group import DataForGroup, Steps
from bt_ray.errors import BtRayError, RunFailedError
from bt_ray.ray_internals import TRAIN_NOTES
from bt_ray.storage.names import name_of, origin_of
from bt_ray.storage.store import Store
from bt_ray.training.assignment import Assignment
from bt_ray.training.background import begin_beside
from bt_ray.training.cluster import cpus_needed, is_trial, uses_gpu
from bt_ray.training.elastic import follow_cluster, num_workers
from bt_ray.training.incidents import CONTINUES, Incidents, nccl_environment, watch, why
from bt_ray.training.remote_recorder import recording
from bt_ray.training.stop import StopRequest
from bt_ray.training.torch_backend import ByDevice
from bt_ray.training.worker import train_worker

T = TypeVar("T")

_TRAIN = "train"


def fit(
    assignment: Assignment,
    total_steps: int,
    stop: StopRequest,
    callbacks: Sequence[UserCallback] = (),
) -> None:
    """Has Ray Train's workers carry out the assignment, to step `total_steps`.

    Workers that are lost are replaced, and go on from the last checkpoint.

    Args:
      stop: ends it earlier.
      callbacks: told by Ray Train of every report.
    Raises: RunFailedError if the cluster gave up; the error of bt_ray that a worker had recorded
      (`worker.telling_failures`).
    """
    settings, run_folder = assignment.settings, assignment.run_folder
    on_gpu = uses_gpu(settings)  # once: a lost node may take the last GPU along
    saved = partial(_saved_steps, assignment)
    computes_on: Literal["gpu", "cpu"] = "gpu" if on_gpu else "cpu"
    known = replace(settings, scaling=replace(settings.scaling, accelerator=computes_on))
    with recording(settings.storage, run_folder, stop) as recorder:
        incidents = Incidents(known, saved, recorder.failure, waits_for_ever=is_trial())
        order = {"assignment": assignment, "recorder": recorder}
        while True:
            try:
                trainer = _trainer(order, total_steps, callbacks, incidents, on_gpu)
                have_left = _run(trainer, name_of(run_folder))
            except RayActorError as error:  # Ray Train's controller died; Ray replaces none
                if incidents.count() > settings.scaling.max_failures:
                    raise RunFailedError(
                        f"Ray Train's controller died too often: {error}"
                    ) from error
                continue
            if not have_left or saved() == total_steps:
                break
        failure = recorder.failure()
    if failure is not None:
        raise failure


def _run(trainer: TorchTrainer, place: str) -> bool:
    """Whether the workers left a node that will be taken away, and shall go on elsewhere.

    Args:
      place: where the run is kept, in words.
    Raises: RayActorError if Ray Train's controller died; RunFailedError; errors of bt_ray there.
    """
    try:
        return bool(beside(trainer.fit).return_value)  # type: ignore[attr-defined]
    except TrainingFailedError as error:
        cause = getattr(error, "controller_failure", None)
        if isinstance(cause, BtRayError):  # of `Incidents`, or the storage's
            raise cause from error
        refused = refusal(cause, place) if isinstance(cause, OSError) else None
        if refused is not None:  # Ray Train's own notes lie there, too
            raise refused from error
        raise RunFailedError(f"Ray Train gave up on the run{why(error)} {CONTINUES}") from error


def beside(job: Callable[[], T]) -> T:
    """What `job` returns, called in another thread.

    In the main one, Ray would take over SIGINT, and abort without a checkpoint.
    """
    return begin_beside(job, "fit").result()


def _trainer(
    order: dict[str, Any],
    total_steps: int,
    callbacks: Sequence[UserCallback],
    incidents: Incidents,
    on_gpu: bool,
) -> TorchTrainer:
    assignment: Assignment = order["assignment"]
    settings = assignment.settings
    origin = origin_of(assignment.run_folder)
    store = Store(str(assignment.run_folder)) if origin is None else origin
    filesystem, path = locate(store.uri)
    drop_unreadable_notes(store.below(_TRAIN))
    trainer = TorchTrainer(
        train_worker,  # type: ignore[arg-type]
        train_loop_config=order,
        torch_config=ByDevice(timeout_s=settings.scaling.collective_timeout_s),
        scaling_config=ScalingConfig(
            num_workers=num_workers(settings.scaling),  # type: ignore[arg-type]
            use_gpu=on_gpu,
            resources_per_worker={"CPU": settings.scaling.cpus_per_worker},
        ),
        run_config=RunConfig(
            name=_TRAIN,
            storage_path=path,
            storage_filesystem=filesystem,
            # They count over the whole run; `Incidents` does since the last checkpoint.
            failure_config=FailureConfig(max_failures=-1, controller_failure_limit=-1),  # type: ignore[call-arg]
            checkpoint_config=CheckpointConfig(num_to_keep=KEPT_CHECKPOINTS),
            callbacks=[*callbacks, watch(incidents, settings)],  # type: ignore[list-item]
            worker_runtime_env={
                "env_vars": nccl_environment() if on_gpu else KEEP_FREED_MEMORY,
            },
        ),
        datasets={
            "train": partial(  # type: ignore[dict-item]
                _remaining_steps, assignment, total_steps, _most_decoders(settings)
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


def drop_unreadable_notes(store: Store) -> None:
    """Removes Ray Train's notes on checkpoints where it would refuse to begin with them.

    A full disk empties them, and another version of Ray reads none but its own. Our checkpoints are
    found without them.
    """
    try:
        notes = json.loads(store.read(TRAIN_NOTES))
        is_readable = notes["ray_version"] == ray.__version__
    except FileNotFoundError:
        return
    except (ValueError, TypeError, KeyError):
        is_readable = False
    if not is_readable:
        store.remove(TRAIN_NOTES)


def _most_decoders(settings: Settings) -> int | None:
    """A trial's share of the CPUs that all trials at once leave; none, all, if the run is alone.

    Decoders keep their CPUs, so that a trial that took more would leave none to the next one.
    """
    if not is_trial():
        return None
    available = ray.cluster_resources()
    runs = available.get("CPU", 0) / cpus_needed(settings)
    if uses_gpu(settings):
        runs = min(runs, available["GPU"] / settings.scaling.min_workers)
    workers = settings.scaling.min_workers * settings.scaling.cpus_per_worker
    return max(1, int(available.get("CPU", 0) / max(1, int(runs)) - workers))


def _remaining_steps(assignment: Assignment, total_steps: int, most_decoders: int | None) -> Steps:
    """Called whenever workers are (re)started: what the last checkpoint leaves to be done."""
    return Steps(
        assignment.settings,
        _saved_steps(assignment),
        total_steps,
        most_decoders,
        assignment.make_views,
    )


def _saved_steps(assignment: Assignment) -> int:
    return newest_checkpoint(assignment.run_folder)[1]
