"""Images that cannot be decoded: counted over all workers, named in a file, too many refused."""

import math
from collections import deque
from collections.abc import Sequence

import numpy as np

from bt_ray.config import Settings
from bt_ray.data.shards.shard_file import fault_of
from bt_ray.data.shards.shard_set import ShardSet, take_rows
from bt_ray.distributed.collectives import sum_numbers
from bt_ray.errors import UnreadableImagesError
from bt_ray.training.context import Context
from bt_ray.training.recorder import QUARANTINE

_ALLOWED = 10  # of a window: few enough to stop soon, enough to tell a rate


class Quarantine:
    """Counts the images that were replaced, and ends a run with too many of them.

    The window that a rate is told from holds as many images as may have ten bad ones.
    """

    def __init__(self, settings: Settings, context: Context) -> None:
        self._data, self._context = settings.data, context
        rate = settings.data.max_bad_rate
        self._allowed = _ALLOWED if rate else 0
        window = _ALLOWED / rate if rate else 1
        self._window_steps = math.ceil(window / settings.data.global_batch)
        self._unsummed = 0
        self._recent: deque[tuple[int, int]] = deque()

    def look(self, replaced: Sequence[int]) -> None:
        """Counts and lists this worker's replaced rows of a step."""
        if replaced:
            self._unsummed += len(replaced)
            self._context.quarantine(replaced)

    def check(self, step: int) -> int:
        """How many images were replaced since the last check, by all workers.

        Called by every worker after the same steps.

        Raises: UnreadableImagesError if too many were, of those of the last steps.
        """
        count, self._unsummed = sum_numbers(self._unsummed, self._context.device), 0
        if count:
            self._recent.append((step, count))
        while self._recent and self._recent[0][0] <= step - self._window_steps:
            self._recent.popleft()
        found = sum(number for _, number in self._recent)
        if found > self._allowed:
            seen = min(step, self._window_steps) * self._data.global_batch
            raise UnreadableImagesError(
                f"{found} of the last {seen:,} images cannot be decoded, and data.max_bad_rate="
                f"{self._data.max_bad_rate:g} allows {self._allowed}. They are listed in "
                f"{QUARANTINE} in the run's folder: prepare the data again without them, or go on "
                "from the last checkpoint with a higher data.max_bad_rate."
            )
        return count


def describe_images(data: str, rows: Sequence[int]) -> list[dict[str, object]]:
    """Of each image its row, its name, and the reason why it cannot be decoded.

    Args:
      data: the shards that the rows are numbered in.
    """
    shards = ShardSet.open(data)
    images = []
    for row in sorted(set(rows)):
        group = shards.read(np.array([row // shards.manifest.rows_per_row_group]))
        [image] = take_rows(group, np.array([row])).select(["sample_id", "image"]).to_pylist()
        reason = fault_of(image["image"], shards.manifest.pixels)
        images.append({"row": row, "sample_id": image["sample_id"], "reason": reason})
    return images
