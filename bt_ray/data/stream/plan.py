"""Which rows make which batch: a pure function of (seed, step).

The shuffle has two levels, so that reading stays sequential. An epoch takes the row groups
in a random order and cuts that order into windows of `window_row_groups`; within a window
the rows are shuffled, and the shuffled rows fill the window's global batches one after the
other. A window is therefore all that has to be read and held to make its batches, and no
row group belongs to two windows of an epoch.

The tail rule: rows of a window beyond its last full batch sit out the epoch. The plan picks
windows of a whole number of batches whenever memory allows, so that this concerns only the
epoch's last window, and fewer than N rows; which ones changes from epoch to epoch.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bt_ray.config import Settings
from bt_ray.data.shards.manifest import Manifest
from bt_ray.errors import DataError

_GROUP_ORDER, _ROW_ORDER = 0, 1


def worker_rows(global_batch: int, num_workers: int) -> tuple[int, ...]:
    """How many rows of every batch each worker gets, by rank; the first may get one more."""
    share, left = divmod(global_batch, num_workers)
    return (share + 1,) * left + (share,) * (num_workers - left)


@dataclass(frozen=True)
class Span:
    """The steps of one window: `first_step` to `stop_step` (exclusive), `index` in its epoch."""

    epoch: int
    index: int
    first_step: int
    stop_step: int


@dataclass(frozen=True, kw_only=True)
class Window:
    """Consecutive global batches that are made of the same row groups."""

    span: Span
    row_groups: NDArray[np.int64]
    """Indices of the row groups to read."""
    rows: NDArray[np.int64]
    """Row index of every sample, in the order of the batches, shape (num_steps · N,)."""


@dataclass(frozen=True)
class Plan:
    """The order of all samples of a run.

    Args:
      num_rows: rows of the data set.
      rows_per_row_group: rows of every row group but the last, which may be shorter.
      global_batch: N.
      seed: of the two shuffles.
      window_row_groups: row groups of a window, from `choose_window`.
    Raises: DataError if the rows do not fill one batch.
    """

    num_rows: int
    rows_per_row_group: int
    global_batch: int
    seed: int
    window_row_groups: int

    def __post_init__(self) -> None:
        if self.num_rows < self.global_batch:
            raise DataError(
                f"data.global_batch={self.global_batch} needs at least as many images; there are "
                f"{self.num_rows}. Lower data.global_batch or add images."
            )
        if self.window_row_groups * self.rows_per_row_group < self.global_batch:
            raise DataError(
                f"A window of {self.window_row_groups} row groups of {self.rows_per_row_group} "
                f"rows does not fill a batch of {self.global_batch}."
            )

    @cached_property
    def steps_per_epoch(self) -> int:
        """Global batches of one epoch, the same for every epoch."""
        return (self._num_windows - 1) * self._steps_per_window + (
            self.num_rows - (self._num_windows - 1) * self._rows_per_window
        ) // self.global_batch

    def batch(self, step: int) -> NDArray[np.int64]:
        """Row indices (N,) of the global batch of `step`, in O(window) time and memory."""
        window = self.window(step)
        first = (step - window.span.first_step) * self.global_batch
        return window.rows[first : first + self.global_batch]

    def spans(self, start: int, stop: int) -> Iterator[Span]:
        """The windows that hold steps `start` to `stop` (exclusive), in order, without rows."""
        step = start
        while step < stop:
            span = self._span(step)
            yield span
            step = span.stop_step

    def window(self, step: int) -> Window:
        """The window that holds `step`, with its rows in the order of its batches."""
        span = self._span(step)
        first = span.index * self.window_row_groups
        is_last = span.index == self._num_windows - 1
        last = None if is_last else first + self.window_row_groups
        groups = self._group_order(span.epoch)[first:last]
        starts = groups * self.rows_per_row_group
        rows = np.concatenate(
            [np.arange(s, min(s + self.rows_per_row_group, self.num_rows)) for s in starts]
        )
        rows = self._generator(_ROW_ORDER, span.epoch, span.index).permutation(rows)
        num_steps = span.stop_step - span.first_step
        return Window(span=span, row_groups=groups, rows=rows[: num_steps * self.global_batch])

    def _span(self, step: int) -> Span:
        epoch, step_of_epoch = divmod(step, self.steps_per_epoch)
        index = min(step_of_epoch // self._steps_per_window, self._num_windows - 1)
        first = index * self._steps_per_window
        is_last = index == self._num_windows - 1
        stop = self.steps_per_epoch if is_last else first + self._steps_per_window
        offset = epoch * self.steps_per_epoch
        return Span(epoch, index, offset + first, offset + stop)

    @cached_property
    def _num_full_groups(self) -> int:
        return self.num_rows // self.rows_per_row_group

    @cached_property
    def _num_windows(self) -> int:
        """The last window takes the row groups that would not fill one of their own."""
        return max(1, self._num_full_groups // self.window_row_groups)

    @property
    def _rows_per_window(self) -> int:
        return self.window_row_groups * self.rows_per_row_group

    @property
    def _steps_per_window(self) -> int:
        return self._rows_per_window // self.global_batch

    def _group_order(self, epoch: int) -> NDArray[np.int64]:
        """Row groups in the epoch's order; a shorter last one stays last, in the last window."""
        order = self._generator(_GROUP_ORDER, epoch).permutation(self._num_full_groups)
        if self.num_rows % self.rows_per_row_group:
            order = np.append(order, self._num_full_groups)
        return order

    def _generator(self, purpose: int, epoch: int, window: int = 0) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(np.random.SeedSequence(
            (self.seed, purpose, epoch, window)
        )))  # fmt: skip


def choose_window(
    *, num_rows: int, num_bytes: int, rows_per_row_group: int, global_batch: int, window_mb: int
) -> int:
    """Row groups of a window: as many as fit `window_mb`, in whole batches if possible.

    A window never holds less than one batch, whatever the limit says. The last window of an
    epoch may hold up to twice as much.
    """
    bytes_per_group = max(1, num_bytes * rows_per_row_group // num_rows)
    fitting = max(1, window_mb * 2**20 // bytes_per_group)
    least = math.ceil(global_batch / rows_per_row_group)
    whole = global_batch // math.gcd(global_batch, rows_per_row_group)
    groups = max(fitting, least)
    return groups // whole * whole if groups >= whole else groups


def chunks(plan: Plan, start: int, stop: int, most_steps: int) -> Iterator[tuple[int, int]]:
    """Steps `start` to `stop` (exclusive) in chunks of whole windows, which are read at once.

    A chunk holds one window, or more if all of its steps are at most `most_steps`; the first one
    holds one.
    """
    first = start
    for span in plan.spans(start, stop):
        begin, end = max(start, span.first_step), min(stop, span.stop_step)
        if begin > first and (first == start or end - first > most_steps):
            yield first, begin
            first = begin
    if first < stop:
        yield first, stop


def build_plan(settings: Settings, manifest: Manifest) -> Plan:
    """The order of all samples of a run over this data set."""
    return Plan(
        manifest.num_rows,
        manifest.rows_per_row_group,
        settings.data.global_batch,
        settings.training.seed,
        choose_window(
            num_rows=manifest.num_rows,
            num_bytes=manifest.num_bytes,
            rows_per_row_group=manifest.rows_per_row_group,
            global_batch=settings.data.global_batch,
            window_mb=settings.data.window_mb,
        ),
    )
