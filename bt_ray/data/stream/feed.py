"""A worker's batches, brought to its device ahead of the step that wants them."""

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bt_ray.data.stream.block import Batch, Block, on_device
from bt_ray.data.stream.lane import Lane, Mark, build_lane
from bt_ray.data.views.photometry import apply_photometry
from bt_ray.data.views.photometry.table import Table

_AHEAD = 2
"""Blocks in pinned memory that are not yet on their way to the device."""
_LEVEL_TYPES = {1: torch.uint8, 2: torch.uint16}
"""By the bytes of a level."""


class Feed(Iterator[Batch]):
    """The batches of these blocks, in their order, on the device.

    On a CPU a batch is made when it is asked for. On a GPU a thread fetches the next blocks and
    copies them into pinned memory, while the steps before them run. When a batch is handed over,
    the next one's way to the device begins, if its block is there by then: one copy of all views,
    one of the smaller ones, one of the photometry's parameters, and the photometry, all on a lane
    beside the step.

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
        coming.mark.join(coming.levels)
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
            if block.table is not None and table is not None:
                levels = _finish(levels, block.table, table)
            views, small = levels[0].unbind(), levels[1] if len(levels) > 1 else None
            coming = _Coming(block.batch(views, small), levels, lane.mark())
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


def _finish(levels: tuple[Tensor, ...], drawn: Table, table: Tensor) -> tuple[Tensor, ...]:
    """Levels (v, n, c, px, px), and (n, s, c, px, px) if there are such, after photometry.

    Args:
      drawn: of all of them, in this order (`Block.table`).
      table: the same on the device.
    """
    finished, first = [], 0
    for part in levels:
        stop = first + part.shape[0] * part.shape[1]
        views = apply_photometry(part.flatten(0, 1), drawn[first:stop], table[first:stop])
        finished.append(views.unflatten(0, part.shape[:2]))
        first = stop
    return tuple(finished)


@dataclass
class _Slot:
    """Pinned memory for one block after the other."""

    levels: Tensor | None = None
    small: Tensor | None = None
    table: Tensor | None = None
    copied: Mark | None = None
    """Behind the last copy of it."""

    def fill(self, block: Block, lane: Lane) -> None:
        """Overwrites it with the block, once the last copy of it is done."""
        if self.copied is not None:
            self.copied.wait()
        kind = _LEVEL_TYPES[block.views[0].itemsize]
        shape = (len(block.views), *block.views[0].shape)
        self.levels = _pinned(self.levels, shape, kind, lane)
        for place, view in zip(self.levels.numpy(), block.views, strict=True):
            np.copyto(place, view)
        self.small = _filled(self.small, block.small, kind, lane)
        self.table = _filled(self.table, block.table, torch.float32, lane)

    def copy(self, lane: Lane) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """Views (v, n, c, px, px), smaller ones (n, s, …) and the table, on their way."""
        assert self.levels is not None
        levels = tuple(lane.copy(part) for part in (self.levels, self.small) if part is not None)
        table = None if self.table is None else lane.copy(self.table)
        self.copied = lane.mark()
        return levels, table


def _filled(
    memory: Tensor | None, array: NDArray[Any] | None, kind: torch.dtype, lane: Lane
) -> Tensor | None:
    """Pinned memory with the array in it, the same as before if it fits; none of none."""
    if array is None:
        return None
    memory = _pinned(memory, array.shape, kind, lane)
    np.copyto(memory.numpy(), array)
    return memory


def _pinned(memory: Tensor | None, shape: tuple[int, ...], kind: torch.dtype, lane: Lane) -> Tensor:
    """The same pinned memory if it fits; else new."""
    fits = memory is not None and memory.shape == shape and memory.dtype == kind
    return memory if memory is not None and fits else lane.pinned(shape, kind)


@dataclass(frozen=True)
class _Fetched:
    """A block, and the pinned memory in which it is, too, if there is a lane."""

    block: Block
    slot: _Slot | None


@dataclass(frozen=True)
class _Coming:
    """A batch under way: it is there behind the mark."""

    batch: Batch
    levels: tuple[Tensor, ...]
    """All that the batch has on the device."""
    mark: Mark
