"""A worker's batches, brought to its device ahead of the step that wants them."""

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle

import numpy as np
import torch
from torch import Tensor

from bt_ray.data.stream.block import Batch, Block, on_device
from bt_ray.data.stream.lane import Lane, Mark, build_lane
from bt_ray.data.views.photometry import apply_photometry

_AHEAD = 2
"""Blocks in pinned memory that are not yet on their way to the device."""
_LEVEL_TYPES = {1: torch.uint8, 2: torch.uint16}
"""By the bytes of a level."""


class Feed(Iterator[Batch]):
    """The batches of these blocks, in their order, on the device.

    On a CPU a batch is made when it is asked for. On a GPU a thread fetches the next blocks and
    copies them into pinned memory, while the steps before them run. When a batch is handed over,
    the next one's way to the device begins, if its block is there by then: one copy of all views,
    one of the photometry's parameters, and the photometry, all on a lane beside the step.

    An error in fetching a block is raised in that block's place.

    Args:
      blocks: fetched one after the other, each by one thread at a time.
      lane: how blocks get to the device; none: as `build_lane` says.
    """

    waited_s: float
    """How long blocks have been waited for, in seconds; what the device takes is not in it."""

    def __init__(
        self, blocks: Iterator[Block], device: torch.device, lane: Lane | None = None
    ) -> None:
        self.waited_s = 0.0
        self._blocks, self._device = blocks, device
        self._lane = lane or build_lane(device)
        self._slots = cycle([_Slot() for _ in range(_AHEAD)])
        self._pool: ThreadPoolExecutor | None = None
        self._fetching: deque[Future[_Fetched | None]] = deque()
        self._coming: _Coming | None = None

    def begin(self) -> None:
        """Fetches the first block at once, in a thread, while the caller does other things."""
        self._fetch_ahead(1)

    def __next__(self) -> Batch:
        """The next batch. On a GPU it may be under way; what is launched next waits for it."""
        if self._lane is None:
            return on_device(self._wait().block, self._device)
        coming = self._coming or self._bring(self._lane)
        self._coming = self._bring(self._lane) if self._is_fetched() else None
        coming.mark.join((coming.levels,))
        return coming.batch

    def close(self) -> None:
        """Fetches no more; a fetch under way ends by itself."""
        self._blocks, self._coming = iter(()), None
        self._fetching.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _bring(self, lane: Lane) -> "_Coming":
        """Waits for the next block, and launches its copies and its photometry."""
        fetched = self._wait()
        block, slot = fetched.block, fetched.slot
        assert slot is not None
        with lane.beside():
            levels, table = slot.copy(lane)
            if block.table is not None:
                finished = apply_photometry(levels.flatten(0, 1), block.table, table)
                levels = finished.unflatten(0, levels.shape[:2])
            coming = _Coming(block.batch(levels.unbind()), levels, lane.mark())
        self._fetch_ahead(_AHEAD)  # not before `copy` has marked the slot as in use
        return coming

    def _wait(self) -> "_Fetched":
        """The next block, when it is there.

        Raises: StopIteration; whatever the fetching raised.
        """
        began = time.perf_counter()
        try:
            fetched = self._fetching.popleft().result() if self._fetching else self._fetch()
        finally:
            self.waited_s += time.perf_counter() - began
        if fetched is None:
            raise StopIteration
        return fetched

    def _is_fetched(self) -> bool:
        """Whether the next block is there; if fetching it failed, that is told in its place."""
        if not self._fetching or not self._fetching[0].done():
            return False
        future = self._fetching[0]
        return future.exception() is None and future.result() is not None

    def _fetch_ahead(self, count: int) -> None:
        """Lets a thread fetch until `count` blocks are there or under way."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="feed")
        while len(self._fetching) < count:
            self._fetching.append(self._pool.submit(self._fetch))

    def _fetch(self) -> "_Fetched | None":
        block = next(self._blocks, None)
        if block is None:
            return None
        if self._lane is None:
            return _Fetched(block, None)
        slot = next(self._slots)
        slot.fill(block, self._lane)
        return _Fetched(block, slot)


@dataclass
class _Slot:
    """Pinned memory for one block after the other."""

    levels: Tensor | None = None
    table: Tensor | None = None
    copied: Mark | None = None
    """Behind the last copy of it."""

    def fill(self, block: Block, lane: Lane) -> None:
        """Overwrites it with the block, once the last copy of it is done."""
        if self.copied is not None:
            self.copied.wait()
        shape = (len(block.views), *block.views[0].shape)
        if self.levels is None or self.levels.shape != shape:
            self.levels = lane.pinned(shape, _LEVEL_TYPES[block.views[0].itemsize])
        for place, view in zip(self.levels.numpy(), block.views, strict=True):
            np.copyto(place, view)
        if block.table is None:
            self.table = None
            return
        if self.table is None or self.table.shape != block.table.shape:
            self.table = lane.pinned(block.table.shape, torch.float32)
        np.copyto(self.table.numpy(), block.table)

    def copy(self, lane: Lane) -> tuple[Tensor, Tensor | None]:
        """Views (v, n, c, px, px) and the table, on their way to the device."""
        assert self.levels is not None
        levels = lane.copy(self.levels)
        table = None if self.table is None else lane.copy(self.table)
        self.copied = lane.mark()
        return levels, table


@dataclass(frozen=True)
class _Fetched:
    """A block, and the pinned memory in which it is, too, if there is a lane."""

    block: Block
    slot: _Slot | None


@dataclass(frozen=True)
class _Coming:
    """A batch under way: it is there behind the mark."""

    batch: Batch
    levels: Tensor
    """All that the batch has on the device."""
    mark: Mark
