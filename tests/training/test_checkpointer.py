"""Checkpoints beside training: who waits for whom, when they are due, what goes wrong."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from bt_ray.checkpoints.checkpoint import last_checkpoint, save_checkpoint
from bt_ray.config import Settings, differences, override
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.batches import local_batches
from bt_ray.data.stream.block import Batch
from bt_ray.data.stream.feed import Feed
from bt_ray.data.stream.plan import build_plan
from bt_ray.errors import RunFailedError
from bt_ray.methods.barlow_twins import BarlowTwinsLearner
from bt_ray.methods.learner import Probing
from bt_ray.training import checkpointer
from bt_ray.training.background import begin_beside
from bt_ray.training.checkpointer import Checkpointer
from bt_ray.training.loop import train
from tests.states import build_state
from tests.training.test_loop import CPU, MemoryContext
from tests.workers import run_workers


@dataclass
class HeldContext(MemoryContext):
    """Writes a checkpoint only when it may."""

    may_write: dict[int, Future[None]] = field(default_factory=dict)
    begun: list[int] = field(default_factory=list)
    stop_at: int = 0
    steps: int = 0

    def commit(self, step: int, write: Callable[[Path], None] | None) -> Future[None]:
        assert write is not None
        self.begun.append(step)

        def held() -> None:
            self.gate(step).result(timeout=60)
            write(self.folder / str(step))

        return begin_beside(held, "held")

    def gate(self, step: int) -> Future[None]:
        return self.may_write.setdefault(step, Future())

    def wants_stop(self) -> bool:
        self.steps += 1
        return self.steps == self.stop_at


class Watched(Feed):
    """A feed; `watch` is told of each batch before it is handed over."""

    def __init__(self, feed: Feed, watch: Callable[[int], None]) -> None:
        self._feed, self._watch, self.waited_s = feed, watch, 0.0

    def __next__(self) -> Batch:
        batch = next(self._feed)
        self._watch(batch.step)
        return batch


def go(settings: Settings, context: MemoryContext, watch: Callable[[int], None]) -> nn.Module:
    """Trains; `watch` is told before each batch which it is."""
    shards = ShardSet.open(settings.data.train)
    steps_per_epoch = build_plan(settings, shards.manifest).steps_per_epoch

    stop = steps_per_epoch * settings.schedule.epochs
    feed = local_batches(settings, shards, start=0, stop=stop, device=CPU)
    learner = BarlowTwinsLearner(settings, CPU, steps_per_epoch=steps_per_epoch)
    train(
        learner,
        settings,
        steps_per_epoch=steps_per_epoch,
        batches=Watched(feed, watch),
        context=context,
        probe=lambda module: Probing(measures={}),
    )
    return learner.module


def test_training_goes_on_while_a_checkpoint_is_written(
    small_settings: Settings, tmp_path: Path
) -> None:
    """Checkpoints after steps 2, 4, 6; that of step 2 is not written before step 3 is done."""
    settings = override(small_settings, {"training.checkpoint_every_epochs": 1})
    plain = MemoryContext(tmp_path / "plain")
    go(settings, plain, lambda step: None)
    context = HeldContext(tmp_path / "held")
    seen = {}

    def watch(step: int) -> None:
        seen[step] = list(context.begun), sorted(f.name for f in context.folder.glob("*"))
        if step == 3:
            context.gate(2).set_result(None)
        if step == 5:
            for later in (4, 6):
                context.gate(later).set_result(None)

    go(settings, context, watch)
    assert seen[2] == seen[3] == ([2], []), "steps 2 and 3 did not wait for it"
    assert seen[4] == seen[5] == ([2, 4], ["2"]), "the next one waited for it"
    for step in (2, 4, 6):
        for file in (plain.folder / str(step)).iterdir():
            ours = context.folder / str(step) / file.name
            assert ours.read_bytes() == file.read_bytes(), (step, file.name)


@pytest.mark.parametrize("stop_at", [0, 3])
def test_the_end_and_a_stop_wait_for_the_checkpoint(
    small_settings: Settings, tmp_path: Path, stop_at: int
) -> None:
    settings = override(small_settings, {"training.checkpoint_every_epochs": 3})
    context, last = HeldContext(tmp_path, stop_at=stop_at), stop_at or 6
    timer = threading.Timer(0.2, lambda: context.gate(last).set_result(None))

    def watch(step: int) -> None:
        if step == last - 1:
            timer.start()

    go(settings, context, watch)
    assert context.begun == [last]
    assert (tmp_path / str(last) / "manifest.json").is_file()


@pytest.mark.parametrize(("fails", "known"), [(2, 3), (6, 5)])
def test_an_error_is_raised_in_the_loop_as_soon_as_it_is_known_and_at_the_end(
    small_settings: Settings, tmp_path: Path, fails: int, known: int
) -> None:
    settings = override(small_settings, {"training.checkpoint_every_epochs": 1})
    context, seen = HeldContext(tmp_path), list[int]()
    for other in {2, 4, 6} - {fails}:
        context.gate(other).set_result(None)

    def watch(number: int) -> None:
        seen.append(number)
        if number == known:
            context.gate(fails).set_exception(RunFailedError("The disk is full."))

    with pytest.raises(RunFailedError, match="The disk is full"):
        go(settings, context, watch)
    assert seen[-1] == known, "no other step was begun"


def test_an_error_of_training_does_not_cut_off_the_checkpoint(
    small_settings: Settings, tmp_path: Path
) -> None:
    settings = override(small_settings, {"training.checkpoint_every_epochs": 1})
    context = HeldContext(tmp_path)

    def watch(step: int) -> None:
        if step == 3:
            threading.Timer(0.2, lambda: context.gate(2).set_result(None)).start()
            raise ValueError("No more images.")

    with pytest.raises(ValueError, match="No more images"):
        go(settings, context, watch)
    assert (tmp_path / "2" / "manifest.json").is_file()


class Clock:
    """Shows a minute more each time that it is told to."""

    def __init__(self) -> None:
        self.minutes = 0.0

    def monotonic(self) -> float:
        return 60 * self.minutes


@pytest.mark.parametrize(
    ("minutes", "epochs", "steps"),
    [(None, 1, [2, 4, 6]), (4.0, 3, [4, 6]), (3.0, 1, [2, 4, 6]), (3.0, 2.5, [3, 5, 6])],
)
def test_a_checkpoint_is_due_by_epochs_and_by_minutes(
    small_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    minutes: float | None, epochs: float, steps: list[int],
) -> None:  # fmt: skip
    """A step takes a minute; whichever comes first, and the minutes count from the last one."""
    changes = {
        "training.checkpoint_every_minutes": minutes,
        "training.checkpoint_every_epochs": epochs,
    }
    settings = override(small_settings, changes)
    assert "training.checkpoint_every_minutes" not in differences(settings, small_settings)
    clock = Clock()
    monkeypatch.setattr(checkpointer, "time", clock)

    def watch(step: int) -> None:
        clock.minutes = step + 1

    go(settings, MemoryContext(tmp_path), watch)
    assert sorted(int(folder.name) for folder in tmp_path.glob("[0-9]*")) == steps


def _by_time(rank: int, world_size: int, settings: Settings, folder: Path) -> list[int]:
    """At which steps a worker took part in a checkpoint; its clock is not the others'."""
    shards, committed = ShardSet.open(settings.data.train), list[int]()
    clock = Clock()
    checkpointer.time = clock  # type: ignore[attr-defined]

    class Counting(MemoryContext):
        def commit(self, step: int, write: Callable[[Path], None] | None) -> Future[None]:
            assert (write is None) == (rank != 0)
            committed.append(step)
            return super().commit(step, write)

    def watch(step: int) -> None:
        clock.minutes = (step + 1) * (1 + 5 * rank)

    feed = local_batches(
        settings, shards, start=0, stop=6, device=CPU, rank=rank, world_size=world_size
    )
    train(
        BarlowTwinsLearner(settings, CPU, steps_per_epoch=2),
        settings,
        steps_per_epoch=2,
        batches=Watched(feed, watch),
        context=Counting(folder, rank=rank),
        probe=lambda module: Probing(measures={}),
    )
    return committed


@pytest.mark.run
def test_workers_agree_on_the_step_by_the_clock_of_the_first(
    small_settings: Settings, tmp_path: Path
) -> None:
    changes = {
        "training.checkpoint_every_minutes": 4.0,
        "training.checkpoint_every_epochs": 3,
        "data.global_batch": 32,
    }
    settings = override(small_settings, changes)
    assert run_workers(2, _by_time, settings, tmp_path) == [[4, 6], [4, 6]]


def test_of_all_workers_the_first_alone_copies(small_settings: Settings, tmp_path: Path) -> None:
    for rank in (0, 1):
        context = MemoryContext(tmp_path / str(rank), rank=rank)
        with Checkpointer(build_state(small_settings, CPU), small_settings, context) as keeping:
            keeping.keep()
        assert (tmp_path / str(rank) / "0").exists() == (rank == 0)
        assert bool(keeping._copies._buffers) == (rank == 0)


def test_old_and_new_ways_write_the_same_files(small_settings: Settings, tmp_path: Path) -> None:
    state = build_state(small_settings, CPU)
    save_checkpoint(tmp_path / "train" / "checkpoint_0", state, small_settings)
    with Checkpointer(state, small_settings, MemoryContext(tmp_path)) as keeping:
        keeping.keep()
    for file in (tmp_path / "0").iterdir():
        other = tmp_path / "train" / "checkpoint_0" / file.name
        assert other.read_bytes() == file.read_bytes()
    assert last_checkpoint(tmp_path)[1] == 0


def test_buffers_are_not_filled_again_before_they_are_written(
    small_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events, draft = list[str](), checkpointer.draft_checkpoint

    class Waited(Future[None]):
        def result(self, timeout: float | None = None) -> None:
            events.append("waited")
            self.set_result(None)

    class Slow(MemoryContext):
        def commit(self, step: int, write: Callable[[Path], None] | None) -> Future[None]:
            events.append("committed")
            return Waited()

    def noting(*arguments: Any) -> Any:
        events.append("copied")
        return draft(*arguments)

    monkeypatch.setattr(checkpointer, "draft_checkpoint", noting)
    with Checkpointer(build_state(small_settings, CPU), small_settings, Slow(tmp_path)) as keeping:
        for _ in range(2):
            keeping.keep()
            keeping.look()
    assert events == 2 * ["copied", "committed", "waited"]
