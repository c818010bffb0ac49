"""A run in the calling process, without Ray: the same loop, batches and checkpoints."""

import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from bt_ray.checkpoints.best import keep_if_best
from bt_ray.checkpoints.checkpoint import KEPT_CHECKPOINTS, last_checkpoint
from bt_ray.checkpoints.stored import keep_stored, prune
from bt_ray.config import Settings
from bt_ray.cpu.count import available_cpus
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.batches import local_batches
from bt_ray.data.stream.plan import build_plan
from bt_ray.errors import LaunchError, RunFailedError
from bt_ray.storage.names import origin_of
from bt_ray.storage.store import Store
from bt_ray.storage.working_copy import CHECKPOINT
from bt_ray.tracking.snapshots import Arrays
from bt_ray.training.assignment import Assignment
from bt_ray.training.background import begin_beside, done
from bt_ray.training.context import Measures
from bt_ray.training.loop import train
from bt_ray.training.on_cpu import warn_on_cpu
from bt_ray.training.preflight import check_cards, examine
from bt_ray.training.quarantine import describe_images
from bt_ray.training.recorder import FolderRecorder, Recorder
from bt_ray.training.stop import StopRequest

_LOCAL = "local"
"""Name of the folder of checkpoints in a run's folder."""


@dataclass(frozen=True)
class LocalContext:
    """The loop's context in the calling process."""

    run_folder: Path
    data: str
    """The shards that are trained on."""
    device: torch.device
    recorder: Recorder
    rank: int = 0
    keeps_best: bool = False

    def report(self, step: int, measures: Measures) -> None:
        """Records the measures."""
        self.recorder.log(step, measures)

    def quarantine(self, rows: Sequence[int]) -> None:
        """Lists images that cannot be decoded in the run's folder."""
        self.recorder.list_images(describe_images(self.data, rows))

    def keep(self, step: int, arrays: Arrays) -> None:
        """Writes the arrays into the run's folder."""
        self.recorder.keep(step, arrays)

    def commit(self, step: int, write: Callable[[Path], None] | None) -> Future[None]:
        """Has the checkpoint written into the run's folder, which keeps the last two."""
        if write is None:
            return done()
        return begin_beside(partial(self._keep, step, write), "checkpoint")

    def wants_stop(self) -> bool:
        """Whether the calling process was asked to stop."""
        return self.recorder.wants_stop()

    def must_leave(self) -> bool:
        """Nobody tells of it here."""
        return False

    def _keep(self, step: int, write: Callable[[Path], None]) -> None:
        began = time.monotonic()
        origin = origin_of(self.run_folder)
        if origin is None:
            self._keep_here(step, write)
        else:
            name = f"{CHECKPOINT}{step:09d}"
            self.recorder.send_measures()
            first = partial(keep_if_best, origin) if self.keeps_best else None
            keep_stored(origin.below(f"{_LOCAL}/{name}"), write, first)
            prune(origin, _LOCAL, name, KEPT_CHECKPOINTS)
        self.recorder.log(step, {"time/checkpoint_s": time.monotonic() - began})

    def _keep_here(self, step: int, write: Callable[[Path], None]) -> None:
        kept = self.run_folder / _LOCAL
        final, unfinished = kept / f"{CHECKPOINT}{step:09d}", kept / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            write(unfinished)
            if self.keeps_best:
                keep_if_best(Store(str(self.run_folder)), unfinished)
        except RunFailedError:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        shutil.rmtree(final, ignore_errors=True)
        unfinished.rename(final)
        # Later ones are damaged, since this step came after them: they do not push others out.
        until_now = [folder for folder in sorted(kept.iterdir()) if folder.name <= final.name]
        for old in until_now[:-KEPT_CHECKPOINTS]:
            shutil.rmtree(old)


def train_here(assignment: Assignment, total_steps: int, stop: StopRequest | None = None) -> None:
    """Trains in this process from the last checkpoint, if there is one, to the end.

    Args:
      stop: ends it earlier.
    """
    settings, run_folder = assignment.settings, assignment.run_folder
    shards = ShardSet.open(settings.data.train)
    device = choose_device(settings)
    if device.type == "cpu":  # torch counts CPUs by affinity, and knows of no cgroup
        torch.set_num_threads(min(torch.get_num_threads(), available_cpus()))
    steps_per_epoch = build_plan(settings, shards.manifest).steps_per_epoch
    resume, start = last_checkpoint(run_folder)
    batches = local_batches(
        settings,
        shards,
        start=start,
        stop=total_steps,
        device=device,
        make=assignment.make_views,
    )
    with closing(batches):
        train(
            assignment.build_learner(shards, device, steps_per_epoch),
            settings,
            steps_per_epoch=steps_per_epoch,
            batches=batches,
            context=LocalContext(
                run_folder,
                shards.root,
                device,
                FolderRecorder(run_folder, stop or StopRequest()),
                keeps_best=settings.training.selects,
            ),
            probe=assignment.build_probe(device, rank=0, world_size=1),
            resume=resume,
        )


def choose_device(settings: Settings) -> torch.device:
    """What a run in this process computes on: a CUDA GPU or the CPU.

    Raises: LaunchError if that is a GPU, and there is none, or one that cannot carry it out.
    """
    wanted, has_gpu = settings.scaling.accelerator, torch.cuda.is_available()
    if wanted == "gpu" and not has_gpu:
        raise LaunchError(
            "scaling.accelerator=gpu needs a GPU with CUDA, and there is none here; use cpu."
        )
    if has_gpu and wanted != "cpu":
        check_cards([examine()], settings)
        return torch.device("cuda")
    warn_on_cpu(settings)
    return torch.device("cpu")
