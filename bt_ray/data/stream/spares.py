"""What stands in for an image that cannot be decoded: another one, the same every time.

The spare is a pure function of the plan and the place: the image that the plan has half a window
further on, and the next ones if that is broken too. So a run sees the same data whoever decodes
them, and after any restart. The views are drawn as for the image that is missing.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from bt_ray.data.shards.shard_set import ShardSet, take_rows
from bt_ray.data.stream.plan import Plan

_MOST_TRIED = 16


@dataclass(frozen=True)
class Spare:
    """An image that may stand in for another: its row, encoded bytes and size in pixels."""

    sample: int
    encoded: pa.Buffer
    width: int
    height: int


def find_spares(shards: ShardSet, plan: Plan, step: int, slot: int) -> Iterator[Spare]:
    """Images to stand in for the one at this place, in order of preference."""
    window = plan.window(step)
    place = (step - window.span.first_step) * plan.global_batch + slot
    count = len(window.rows)
    for number in range(min(_MOST_TRIED, count - 1)):
        row = int(window.rows[(place + 1 + (count // 2 + number) % (count - 1)) % count])
        group = shards.read(np.array([row // plan.rows_per_row_group]))
        [image] = take_rows(group, np.array([row])).select(["image", "width", "height"]).to_pylist()
        yield Spare(row, pa.py_buffer(image["image"]), image["width"], image["height"])
