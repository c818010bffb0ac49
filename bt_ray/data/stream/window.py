"""A window's samples in memory, from which the batches that it is made for are taken."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.plan import Plan, Span

_COLUMNS = ["row", "image", "width", "height"]


@dataclass(frozen=True)
class HeldWindow:
    """All samples of a window, read, with the place of each one in the window's batches."""

    span: Span
    global_batch: int
    table: pa.Table
    """Columns `row`, `image`, `width`, `height`, ordered by `row`; each column one array."""
    positions: NDArray[np.int64]
    """Where in the table each sample lies, in the order of the batches, (num_steps · N,)."""

    @classmethod
    def read(cls, shards: ShardSet, plan: Plan, step: int) -> "HeldWindow":
        """The window that holds `step`.

        Raises: DataError, as `ShardSet.read` does.
        """
        window = plan.window(step)
        table = shards.read(window.row_groups).select(_COLUMNS).combine_chunks()
        positions = np.searchsorted(table["row"].to_numpy(), window.rows)
        return cls(window.span, plan.global_batch, table, positions)

    def samples(
        self, start: int, stop: int, first_slot: int = 0, num_slots: int | None = None
    ) -> pa.Table:
        """The samples of some slots of steps `start` to `stop`, step by step.

        Args:
          num_slots: all, unless told.
        Returns: the table's columns, with `step` and `slot`.
        """
        count = self.global_batch if num_slots is None else num_slots
        steps, slots = np.arange(start, stop), np.arange(first_slot, first_slot + count)
        places = (steps - self.span.first_step)[:, None] * self.global_batch + slots
        return (
            self.table.take(self.positions[places.ravel()])
            .append_column("step", pa.array(np.repeat(steps, count)))
            .append_column("slot", pa.array(np.tile(slots, len(steps))))
        )


def samples_of(
    windows: list[HeldWindow], start: int, stop: int, first_slot: int, num_slots: int
) -> pa.Table:
    """The samples of some slots of steps `start` to `stop`, which these windows hold."""
    return pa.concat_tables(
        window.samples(first, last, first_slot, num_slots)
        for window in windows
        for first, last in [_common(window.span, start, stop)]
        if first < last
    )


def _common(span: Span, start: int, stop: int) -> tuple[int, int]:
    return max(span.first_step, start), min(span.stop_step, stop)


def parts(start: int, stop: int, most_steps: int, *, slowly: bool) -> Iterator[tuple[int, int]]:
    """Cuts steps `start` to `stop` (exclusive) into parts that are about equally long.

    Args:
      slowly: whether the first part is one step, and those after it grow until they are as long
        as allowed.
    """
    size = 1
    while slowly and size < most_steps and start < stop:
        yield start, min(start + size, stop)
        start += size
        size = min(2 * size, most_steps)
    if start >= stop:
        return
    count = -(-(stop - start) // most_steps)
    edges = np.linspace(start, stop, count + 1).round().astype(int).tolist()
    yield from pairwise(edges)
