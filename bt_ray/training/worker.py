"""What runs in each Ray Train worker: the loop, connected to Ray and to the trackers."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from ray.train import CheckpointUploadMode

from bt_ray.checkpoints.resume import agree_on_checkpoint
from bt_ray.config import Settings
from bt_ray.cpu.count import available_cpus
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.batches import stream_batches
from bt_ray.data.stream.feed import Feed
from bt_ray.data.stream.ingest import worker_blocks
from bt_ray.data.stream.plan import Plan, build_plan
from bt_ray.errors import (
    NonFiniteLossError,
    StorageRefusedError,
    UnreadableImagesError,
)
from bt_ray.ray_internals import is_drained
from bt_ray.storage.names import below
from bt_ray.storage.store import Store
from bt_ray.tracking.snapshots import Arrays
from bt_ray.tracking.tracker import NullTracker, Tracker, Trackers
from bt_ray.training.assignment import Assignment
from bt_ray.training.background import done
from bt_ray.training.context import Measures
from bt_ray.training.loop import train
from bt_ray.training.prometheus import PrometheusTracker
from bt_ray.training.quarantine import describe_images
from bt_ray.training.recorder import Recorder
from bt_ray.training.upload import upload

WORKERS = "scaling/workers"
"""Name of the measure that says, of a range, how many workers went on from a step."""

_BESIDE = CheckpointUploadMode.ASYNC


@dataclass(frozen=True)
class RayContext:
    """The loop's context in a Ray Train worker."""

    rank: int
    device: torch.device
    tracker: Tracker
    recorder: Recorder
    data: str
    """The shards that are trained on."""
    world_size: int = 1
    run: Store | None = None
    """The run's folder in its storage, if its best checkpoint is kept there."""

    def report(self, step: int, measures: Measures) -> None:
        """The first worker records the measures; Ray Train's callbacks hear of each probe.

        They hear in the order of the reports, so not before a checkpoint under way is kept;
        training does not wait for that.
        """
        self.tracker.log(step, measures)
        if "probe/rankme" in measures:
            ray.train.report({"step": step, **measures}, checkpoint_upload_mode=_BESIDE)

    def quarantine(self, rows: Sequence[int]) -> None:
        """Has images that cannot be decoded listed."""
        self.recorder.list_images(describe_images(self.data, rows))

    def keep(self, step: int, arrays: Arrays) -> None:
        """The first worker's arrays are kept."""
        if self.rank == 0:
            self.recorder.keep(step, arrays)

    def commit(self, step: int, write: Callable[[Path], None] | None) -> Future[None]:
        """Hands the checkpoint to Ray Train, whose thread writes it and copies it to the storage.

        If the copy fails, Ray Train itself ends this worker.
        """
        if write is None:
            ray.train.report({"step": step}, checkpoint_upload_mode=_BESIDE)
            return done()
        kept: Future[None] = Future()
        folder = Path(tempfile.mkdtemp(prefix="checkpoint-"))
        tell = partial(self._tell_kept, step, time.monotonic())
        ray.train.report(
            {"step": step},
            checkpoint=ray.train.Checkpoint.from_directory(str(folder)),
            checkpoint_upload_mode=_BESIDE,
            delete_local_checkpoint_after_upload=False,  # `_upload` does, also after an error
            checkpoint_upload_fn=partial(
                upload, folder, write, self.recorder, self.run, tell, kept
            ),
        )
        return kept

    def _tell_kept(self, step: int, began: float) -> None:
        self.tracker.log(step, {"time/checkpoint_s": time.monotonic() - began})

    def wants_stop(self) -> bool:
        """Whether the driver asked for a stop; the first worker looks for all."""
        return self.rank == 0 and self.recorder.wants_stop()

    def must_leave(self) -> bool:
        """Whether Ray has told this worker that a node of the run is drained."""
        return is_drained()


def train_worker(order: dict[str, Any]) -> bool:
    """One worker's part of a run, from the last checkpoint if there is one.

    Args:
      order: `assignment`, an Assignment, and `recorder`, a Recorder.
    Returns: whether it left because a node will be taken away, and the run shall go on elsewhere.
    """
    assignment: Assignment = order["assignment"]
    settings = assignment.settings
    context = build_context(settings, order["recorder"])
    shards = ShardSet.open(settings.data.train)
    plan = build_plan(settings, shards.manifest)
    resume, start = agree_on_checkpoint(assignment.run_folder, context.device)
    if settings.scaling.is_elastic:
        context.tracker.log(start, {WORKERS: context.world_size})
    batches = worker_batches(settings, context, plan, start)
    batches.begin()  # Ray Data reads and decodes while the model is built and probed first
    with telling_failures(context), closing(batches):
        return train(
            assignment.build_learner(shards, context.device, plan.steps_per_epoch),
            settings,
            steps_per_epoch=plan.steps_per_epoch,
            batches=batches,
            context=context,
            probe=assignment.build_probe(context.device, context.rank, context.world_size),
            resume=resume,
        )
    return False  # one of `telling_failures`' errors ended it


def build_context(settings: Settings, recorder: Recorder) -> RayContext:
    """This worker's context; on a CPU its share of the threads is set, too."""
    place = ray.train.get_context()
    rank = place.get_world_rank()
    # Ray names the GPU that a worker holds by Ray's own count, whether or not there is one.
    has_cuda = torch.cuda.is_available()
    device = ray.train.torch.get_device() if has_cuda else torch.device("cpu")
    if device.type == "cpu":
        torch.set_num_threads(_threads(settings, place.get_local_world_size()))
    return RayContext(
        rank=rank,
        device=device,
        tracker=_tracker(settings, recorder) if rank == 0 else NullTracker(),
        recorder=recorder,
        data=settings.data.train,
        world_size=place.get_world_size(),
        run=Store(below(settings.storage, settings.name)) if settings.training.selects else None,
    )


def _tracker(settings: Settings, recorder: Recorder) -> Tracker:
    """What the first worker's measures go to: a file, and Ray's metrics."""
    return Trackers(recorder, PrometheusTracker(settings.name))


def worker_batches(settings: Settings, context: RayContext, plan: Plan, start: int) -> Feed:
    """This worker's batches from step `start` on, as Ray Data streams them to it."""
    return stream_batches(
        worker_blocks(ray.train.get_dataset_shard("train")),
        settings,
        start=start,
        rank=context.rank,
        world_size=context.world_size,
        steps_per_epoch=plan.steps_per_epoch,
        device=context.device,
    )


@contextmanager
def telling_failures(context: RayContext) -> Iterator[None]:
    """Catches an error that would come again after every restart, and ends the work without one.

    All workers raise it alike; the first one has it recorded, where the driver looks for it.
    """
    try:
        yield
    except (NonFiniteLossError, UnreadableImagesError) as error:
        if context.rank == 0:
            context.recorder.fail(error)
    except StorageRefusedError as error:  # of one worker: Ray Train has to end the others
        context.recorder.fail(error)
        raise
    else:
        context.recorder.flush()


def _threads(settings: Settings, workers_here: int) -> int:
    return settings.scaling.threads_per_worker or max(1, available_cpus() // workers_here)
