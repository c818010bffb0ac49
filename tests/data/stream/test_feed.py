"""The feed, with a lane of the test's in CUDA's place: what is copied when, what waits for what."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from bt_ray.config import DataSettings, Settings
from bt_ray.data.stream import feed as feeding
from bt_ray.data.stream.block import Batch, Block, on_device
from bt_ray.data.stream.feed import Feed
from bt_ray.data.views.photometry import apply_photometry, fused, tabulate
from bt_ray.errors import DataError, PlanError
from bt_ray.model.inputs import to_input
from tests.data.views.test_views import draw
from tests.gpu.trace import GPU, Trace, fake_gpu, needs_fake_gpu

CPU = torch.device("cpu")
HOSTS = Settings(name="hosts", data=DataSettings(train="digits"))


def block(
    step: int, *, rows: int = 2, px: int = 6, photometry: bool = True, small: int = 0
) -> Block:
    """A block that no other step has."""
    numbers, random = np.arange(rows), np.random.default_rng(step)
    levels = random.integers(0, 256, (2, rows, 3, px, px), dtype=np.uint8)
    smaller = random.integers(0, 256, (rows, small, 3, px // 2, px // 2), dtype=np.uint8)
    columns = {
        "step": np.full(rows, step), "row": numbers, "sample": numbers,
        "digest": numbers.astype(np.uint64), "view_a": levels[0], "view_b": levels[1],
    }  # fmt: skip
    drawn = [tabulate(draw(count=rows, view=view, first=step), 128) for view in (0, 1)]
    if small:
        drawn.append(tabulate(draw(count=rows * small, view=2, first=step), 128))
    return Block(
        columns=columns,
        views=(levels[0], levels[1]),
        small=smaller if small else None,
        table=np.concatenate(drawn) if photometry else None,
    )


@dataclass
class LateMark:
    """Nothing is copied before somebody waits for it or joins: the latest that a GPU could."""

    lane: "LateLane"
    place: int

    def wait(self) -> None:
        self.lane.events.append("wait")
        self.lane.copy_up_to(self.place)

    def join(self, tensors: Sequence[Tensor]) -> None:
        self.lane.joined.append(tuple(tensors))
        self.lane.copy_up_to(self.place)


@dataclass
class LateLane:
    """A lane on the CPU whose copies are made as late as may be."""

    late: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    done: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    events: list[str] = field(default_factory=list)
    joined: list[tuple[Tensor, ...]] = field(default_factory=list)
    pinned_memory: list[Tensor] = field(default_factory=list)

    def pinned(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        self.pinned_memory.append(torch.empty(tuple(shape), dtype=dtype))
        return self.pinned_memory[-1]

    def beside(self) -> AbstractContextManager[object]:
        return nullcontext()

    def copy(self, tensor: Tensor) -> Tensor:
        assert any(tensor is memory for memory in self.pinned_memory)
        self.late.append((torch.full_like(tensor, 99), tensor))
        return self.late[-1][0]

    def mark(self) -> LateMark:
        return LateMark(self, len(self.late))

    def copy_up_to(self, place: int) -> None:
        with self.lock:
            for target, source in self.late[self.done : place]:
                target.copy_(source)
            self.done = max(self.done, place)


def expected(blocks: Sequence[Block]) -> list[tuple[Tensor, ...]]:
    return [on_device(one, CPU).views for one in blocks]


def assert_equal(batch: Batch, views: tuple[Tensor, ...]) -> None:
    assert len(batch.views) == len(views)
    for found, wanted in zip(batch.views, views, strict=True):
        assert torch.equal(found, wanted)


def fetched(feed: Feed) -> None:
    """Returns when the block that is being fetched is there."""
    for future in feed._fetching:
        future.exception(10)


@pytest.mark.parametrize("ahead", [True, False])
def test_pinned_memory_is_not_overwritten_before_it_is_copied(ahead: bool) -> None:
    """Copies are made when they must be done, not earlier; two buffers serve all blocks.

    Args:
      ahead: whether the next block is there whenever a batch is asked for.
    """
    blocks = [block(step, photometry=False) for step in range(7)]
    lane = LateLane()
    feed = Feed(iter(blocks), CPU, lane)
    feed.begin()
    for step, views in enumerate(expected(blocks)):
        if ahead:
            fetched(feed)
        batch = next(feed)
        assert batch.step == step
        assert_equal(batch, views)
        [handed_over] = lane.joined[-1]
        assert all(v.untyped_storage().data_ptr() == handed_over.untyped_storage().data_ptr()
                   for v in batch.views)  # fmt: skip
    assert next(feed, None) is None
    assert len(lane.pinned_memory) == 2
    assert lane.events.count("wait") == 5
    assert len(lane.joined) == 7


class PromptLane(LateLane):
    """A lane on the CPU whose copies are made at once."""

    def copy(self, tensor: Tensor) -> Tensor:
        copied = super().copy(tensor)
        self.copy_up_to(len(self.late))
        self.events.append("copy")
        return copied


def test_levels_of_16_bits_and_many_channels_take_the_same_way() -> None:
    """Pinned memory of their type, and photometry on the lane to the same levels."""
    levels = np.random.default_rng(0).integers(0, 65536, (2, 2, 5, 6, 6), dtype=np.uint16)
    drawn = [
        tabulate(draw(count=2, view=view), 128, channels=5, highest_level=65535) for view in (0, 1)
    ]
    deep = replace(block(0), views=(levels[0], levels[1]), table=np.concatenate(drawn))
    lane = PromptLane()
    batch = next(Feed(iter([deep]), CPU, lane))
    assert lane.pinned_memory[0].dtype == torch.uint16
    for found, wanted in zip(batch.views, on_device(deep, CPU).views, strict=True):
        assert found.dtype == torch.uint16
        assert torch.equal(found.int(), wanted.int())


@pytest.mark.parametrize("small", [0, 3])
@pytest.mark.parametrize("photometry", [True, False])
def test_a_lanes_batches_are_those_without_one(photometry: bool, small: int) -> None:
    blocks = [block(step, photometry=photometry, small=small) for step in range(4)]
    for lane in (None, PromptLane()):
        batches = list(Feed(iter(blocks), CPU, lane))
        for batch, views, made_of in zip(batches, expected(blocks), blocks, strict=True):
            assert_equal(batch, views)
            assert batch.step == made_of.columns["step"][0]
            assert all(view.dtype == torch.uint8 for view in batch.views)
            wanted = on_device(made_of, CPU).small
            assert (batch.small is None) == (wanted is None) == (small == 0)
            if batch.small is not None and wanted is not None:
                assert torch.equal(batch.small, wanted)


def test_smaller_views_have_pinned_memory_of_their_own_and_one_copy() -> None:
    """It is not overwritten before it is copied, and the batch waits for both copies."""
    blocks = [block(step, photometry=False, small=3) for step in range(5)]
    lane = LateLane()
    feed = Feed(iter(blocks), CPU, lane)
    for step, batch in enumerate(feed):
        assert_equal(batch, (torch.from_numpy(blocks[step].views[0]), *batch.views[1:]))
        assert batch.small is not None
        assert blocks[step].small is not None
        assert np.array_equal(batch.small.numpy(), blocks[step].small)
        assert len(lane.joined[-1]) == 2
        assert len(lane.late) <= 2 * (step + 2)
        fetched(feed)
    assert len(lane.pinned_memory) == 4
    assert len(lane.late) == 10


@pytest.mark.parametrize("small", [1, 5])
def test_each_smaller_view_gets_its_own_photometry(small: int) -> None:
    """Image after image, view after view: the table's rows after those of the two views."""
    one = block(3, small=small)
    assert one.small is not None
    assert one.table is not None
    finished = on_device(one, CPU).small
    assert finished is not None
    for row in range(2):
        for number in range(small):
            drawn = one.table[4 + row * small + number][None]
            alone = apply_photometry(torch.from_numpy(one.small[row, number][None]), drawn)
            assert torch.equal(finished[row, number], alone[0])


def test_the_next_batch_is_on_its_way_before_the_step() -> None:
    """Its two copies are launched before the batch before it is handed over, if it is there."""
    lane, there = PromptLane(), [threading.Event() for _ in range(6)]

    def blocks() -> Iterator[Block]:
        for step, event in enumerate(there):
            assert event.wait(10)
            yield block(step)

    def copies_of(step: int) -> int:
        """After the next batch, which must be this step's, was handed over."""
        assert next(feed).step == step
        return lane.events.count("copy")

    feed = Feed(blocks(), CPU, lane)
    there[0].set()
    assert copies_of(0) == 2, "what is not there is not waited for"
    for event in there[1:5]:
        event.set()
    fetched(feed)  # blocks 1 and 2
    assert copies_of(1) == 6
    feed._fetching[0].result(10)  # block 3
    assert copies_of(2) == 8
    feed._fetching[0].result(10)
    assert copies_of(3) == 10
    assert copies_of(4) == 10, "block 5 is not there"
    there[5].set()
    assert copies_of(5) == 12
    assert next(feed, None) is None


@pytest.mark.parametrize("lane", [None, LateLane()], ids=["CPU", "lane"])
@pytest.mark.parametrize("error", [PlanError, DataError, ValueError])
def test_an_error_comes_in_its_blocks_place(lane: LateLane | None, error: type[Exception]) -> None:
    def blocks() -> Iterator[Block]:
        yield block(0, photometry=False)
        yield block(1, photometry=False)
        raise error("Worker 0 expected other rows.")

    feed = Feed(blocks(), CPU, lane)
    for step in (0, 1):
        assert next(feed).step == step
        fetched(feed)
    with pytest.raises(error, match="expected other rows"):
        next(feed)
    assert next(feed, None) is None


def threads() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if t.name.startswith("feed")}


@pytest.mark.parametrize("closes", [True, False])
def test_who_stops_early_leaves_no_thread(closes: bool) -> None:
    """Not even if the feed is only dropped, as by an error in the loop."""
    before, taken = threads(), []

    def endless() -> Iterator[Block]:
        while True:
            taken.append(len(taken))
            yield block(0, photometry=False)

    feed = Feed(endless(), CPU, LateLane())
    for batch in feed:
        assert batch.step == 0
        break
    [thread] = threads() - before
    if closes:
        feed.close()
        assert next(feed, None) is None
    del feed
    thread.join(10)
    assert not thread.is_alive()
    assert len(taken) <= 4


def test_a_cpu_fetches_in_the_caller_s_thread_but_for_the_first_block() -> None:
    names = list[str]()
    is_first = threading.Event()

    def blocks() -> Iterator[Block]:
        for step in range(3):
            names.append(threading.current_thread().name)
            is_first.set()
            yield block(step)

    feed = Feed(blocks(), CPU)
    feed.begin()
    assert is_first.wait(10)
    assert len(names) == 1, "no other is fetched ahead"
    assert [batch.step for batch in feed] == [0, 1, 2]
    assert names[0].startswith("feed")
    assert set(names[1:]) == {threading.current_thread().name}
    started = Feed(iter([]), CPU)
    started.begin()
    assert list(started) == []


def test_what_goes_wrong_with_the_first_block_is_told_to_who_wants_it() -> None:
    def blocks() -> Iterator[Block]:
        raise DataError("A shard is damaged.")
        yield

    feed = Feed(blocks(), CPU)
    feed.begin()
    with pytest.raises(DataError, match="damaged"):
        next(feed)


def test_a_cpu_copies_nothing_that_torch_can_use_as_it_is() -> None:
    """Ray's arrays, which may not be written to, are copied: torch would warn of them."""
    one = block(0, photometry=False)
    [batch] = Feed(iter([one]), CPU)
    for view, array in zip(batch.views, one.views, strict=True):
        assert view.data_ptr() == array.ctypes.data
    for array in one.views:
        array.flags.writeable = False
    [batch] = Feed(iter([one]), CPU)
    for view, array in zip(batch.views, one.views, strict=True):
        assert view.data_ptr() != array.ctypes.data
        assert np.array_equal(view.numpy(), array)


class SlowLane(PromptLane):
    """A device whose copies take a minute each, on the test's clock."""

    def __init__(self, clock: SimpleNamespace) -> None:
        super().__init__()
        self.clock = clock

    def copy(self, tensor: Tensor) -> Tensor:
        self.clock.now += 60.0
        return super().copy(tensor)


def test_the_wait_for_data_is_the_wait_for_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block takes a second to fetch; what the device takes is nobody's wait for data."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(feeding, "time", SimpleNamespace(perf_counter=lambda: clock.now))

    def blocks() -> Iterator[Block]:
        for step in range(3):
            clock.now += 1.0
            yield block(step)

    on_cpu = Feed(blocks(), CPU)
    assert len(list(on_cpu)) == 3
    assert on_cpu.waited_s == 3

    on_lane = Feed(blocks(), CPU, SlowLane(clock))
    for _ in range(3):
        next(on_lane)
    assert clock.now >= 3 + 6 * 60
    assert 0 < on_lane.waited_s <= 3


class FakeCudaLane(LateLane):
    """Brings memory to a CUDA device that is not there."""

    def copy(self, tensor: Tensor) -> Tensor:
        return tensor.to(GPU, non_blocking=True)


@needs_fake_gpu
@pytest.mark.parametrize(
    ("has_triton", "kernels", "gigabytes"), [(True, 14, 0.70), (False, 498, 19.0)]
)
def test_a_steps_input_is_two_copies_that_nobody_waits_for(
    has_triton: bool, kernels: int, gigabytes: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 64 images in both views at 224 pixels: from blocks to what the encoder takes.

    Budget: 2 copies, 200 kernels of photometry, 8 GB. Without Triton the kernels and bytes are
    those of torch's operations, more than that, and the copies as few.
    """
    launches = list[fused.Launch]()
    monkeypatch.setattr(fused, "is_usable", lambda device: has_triton)
    monkeypatch.setattr(fused.Launch, "start", lambda launch: launches.append(launch))
    feed = Feed(iter([block(step, rows=64, px=224) for step in range(4)]), GPU, FakeCudaLane())
    feed.begin()
    try:
        with fake_gpu(), Trace() as trace:
            to_input(next(feed).views[0], HOSTS)  # makes the constants, and the next ones' lead
            fetched(feed)
            next(feed)
            trace.reset()
            launches.clear()
            feed._fetching[0].result(10)
            batch = next(feed)
            views = [to_input(view, HOSTS) for view in batch.views]
    finally:
        feed.close()
    assert batch.views[0].device == GPU
    assert all(view.dtype == torch.float32 for view in views)
    assert all(view.is_contiguous(memory_format=torch.channels_last) for view in views)
    assert [(c.way, c.waits) for c in trace.crossings] == [("cpu to cuda", False)] * 2
    assert trace.num_launches + len(launches) <= kernels
    num_bytes = trace.bytes + sum(launch.num_bytes for launch in launches)
    assert num_bytes < gigabytes * 1e9


@pytest.mark.gpu
def test_a_gpus_feed_brings_the_cpus_batches() -> None:
    """While the computing stream is kept busy, so that a missing wait would show."""
    blocks = [block(step, rows=16, px=64) for step in range(8)]
    device = torch.device("cuda")
    feed = Feed(iter(blocks), device)
    feed.begin()
    busy = torch.randn(2048, 2048, device=device)
    for batch, views in zip(feed, expected(blocks), strict=True):
        for _ in range(20):
            busy = torch.tanh(busy @ busy)
        for found, wanted in zip(batch.views, views, strict=True):
            off = (found.cpu().float() - wanted.float()).abs()
            assert off.mean() <= 1
            assert off.flatten().quantile(0.999) <= 8


@pytest.mark.gpu
def test_a_gpus_step_waits_for_no_copy() -> None:
    """CUDA itself refuses each operation that would stop the host."""
    device = torch.device("cuda")
    feed = Feed(iter([block(step, rows=16, px=64) for step in range(6)]), device)
    to_input(next(feed).views[0], HOSTS)
    try:
        torch.cuda.set_sync_debug_mode("error")
        for batch in feed:
            assert len([to_input(view, HOSTS) for view in batch.views]) == 2
    finally:
        torch.cuda.set_sync_debug_mode("default")
