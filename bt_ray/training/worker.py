"""What runs in each Ray Train worker: the loop, connected to Ray and to the trackers."""

import json
import shutil
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
from bt_ray.errors import NonFiniteLossError, RunFailedError, UnreadableImagesError
from bt_ray.tracking.snapshots import Arrays, write_snapshot
from bt_ray.tracking.tracker import (
    METRICS,
    JsonLinesTracker,
    NullTracker,
    Tracker,
    Trackers,
)
from bt_ray.training.assignment import Assignment
from bt_ray.training.background import done
from bt_ray.training.context import Measures
from bt_ray.training.loop import train
from bt_ray.training.prometheus import PrometheusTracker
from bt_ray.training.quarantine import QUARANTINE, list_images
from bt_ray.training.stop import StopRequest

WORKERS = "scaling/workers"
"""Name of the measure that says, of a range, how many workers went on from a step."""
FAILURE = "failure.json"
"""Name of the file in a run's folder that says why its work ended."""


_BESIDE = CheckpointUploadMode.ASYNC


@dataclass(frozen=True)
class RayContext:
    """The loop's context in a Ray Train worker."""

    rank: int
    device: torch.device
    tracker: Tracker
    run_folder: Path
    data: str
    """The shards that are trained on."""
    world_size: int = 1

    def report(self, step: int, measures: Measures) -> None:
        """The first worker records the measures; Ray Train's callbacks hear of each probe.

        They hear in the order of the reports, so not before a checkpoint under way is kept;
        training does not wait for that.
        """
        self.tracker.log(step, measures)
        if "probe/rankme" in measures:
            ray.train.report({"step": step, **measures}, checkpoint_upload_mode=_BESIDE)

    def quarantine(self, rows: Sequence[int]) -> None:
        """Lists images that cannot be decoded in the run's folder."""
        list_images(self.run_folder / QUARANTINE, self.data, rows)

    def keep(self, step: int, arrays: Arrays) -> None:
        """The first worker writes the arrays into the run's folder."""
        if self.rank == 0:
            write_snapshot(self.run_folder, step, arrays)

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
            checkpoint_upload_fn=partial(_upload, folder, write, tell, kept),
        )
        return kept

    def _tell_kept(self, step: int, began: float) -> None:
        self.tracker.log(step, {"time/checkpoint_s": time.monotonic() - began})

    def wants_stop(self) -> bool:
        """Whether the driver asked for a stop; the first worker looks for all."""
        return self.rank == 0 and StopRequest(self.run_folder).is_made()


def _upload(
    folder: Path,
    write: Callable[[Path], None],
    tell: Callable[[], None],
    kept: Future[None],
    checkpoint: ray.train.Checkpoint,
    name: str,
) -> ray.train.Checkpoint:
    """The checkpoint in the run's storage, under this name, once it is written and copied there.

    Ray Train may try again after an error of the storage.
    """
    try:
        write(folder)
        storage = ray.train.get_context().get_storage()
        stored: ray.train.Checkpoint = storage.persist_current_checkpoint(checkpoint, name)
    except RunFailedError as error:  # of `write`
        kept.set_exception(error)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    tell()
    kept.set_result(None)
    return stored


def train_worker(order: dict[str, Any]) -> None:
    """One worker's part of a run, from the last checkpoint if there is one.

    Args:
      order: `assignment`, an Assignment.
    """
    assignment: Assignment = order["assignment"]
    settings = assignment.settings
    context = build_context(settings, assignment.run_folder)
    shards = ShardSet.open(settings.data.train)
    plan = build_plan(settings, shards.manifest)
    resume, start = agree_on_checkpoint(assignment.run_folder, context.device)
    if settings.scaling.is_elastic:
        context.tracker.log(start, {WORKERS: context.world_size})
    batches = worker_batches(settings, context, plan, start)
    batches.begin()  # Ray Data reads and decodes while the model is built and probed first
    with telling_failures(context), closing(batches):
        train(
            assignment.build_learner(shards, context.device, plan.steps_per_epoch),
            settings,
            steps_per_epoch=plan.steps_per_epoch,
            batches=batches,
            context=context,
            probe=assignment.build_probe(context.device, context.rank, context.world_size),
            resume=resume,
        )


def build_context(settings: Settings, run_folder: Path) -> RayContext:
    """This worker's context; on a CPU its share of the threads is set, too."""
    place = ray.train.get_context()
    rank, device = place.get_world_rank(), ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(_threads(settings, place.get_local_world_size()))
    return RayContext(
        rank=rank,
        device=device,
        tracker=_tracker(settings, run_folder) if rank == 0 else NullTracker(),
        run_folder=run_folder,
        data=settings.data.train,
        world_size=place.get_world_size(),
    )


def _tracker(settings: Settings, run_folder: Path) -> Tracker:
    """What the first worker's measures go to: a file, and Ray's metrics."""
    return Trackers(JsonLinesTracker(run_folder / METRICS), PrometheusTracker(settings.name))


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

    All workers raise it alike; the first one writes it into the run's folder, where the driver
    looks for it.
    """
    try:
        yield
    except (NonFiniteLossError, UnreadableImagesError) as error:
        if context.rank == 0:
            reason = {"error": type(error).__name__, "message": str(error)}
            (context.run_folder / FAILURE).write_text(json.dumps(reason))


def _threads(settings: Settings, workers_here: int) -> int:
    return settings.scaling.threads_per_worker or max(1, available_cpus() // workers_here)
