"""Images that cannot be decoded: counted over all workers, named in a file, too many refused."""

import math
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bt_ray.config import Settings
from bt_ray.data.shards.shard_file import fault_of
from bt_ray.data.shards.shard_set import ShardSet, take_rows
from bt_ray.distributed.collectives import sum_numbers
from bt_ray.errors import UnreadableImagesError
from bt_ray.json_files import append_line, read_lines
from bt_ray.training.context import Context

QUARANTINE = "quarantine.jsonl"
"""Name of the list of such images in a run's folder."""
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


def list_images(file: Path, data: str, rows: Sequence[int]) -> None:
    """Adds images to the list in `file`, each with the reason why it cannot be decoded.

    Args:
      data: the shards that the rows are numbered in.
      rows: those that are listed already are left out.
    """
    listed = {image["row"] for image in read_quarantine(file)}
    shards = ShardSet.open(data)
    for row in sorted(set(rows) - listed):
        group = shards.read(np.array([row // shards.manifest.rows_per_row_group]))
        [image] = take_rows(group, np.array([row])).select(["sample_id", "image"]).to_pylist()
        line = {"row": row, "sample_id": image["sample_id"], "reason": fault_of(image["image"])}
        append_line(file, line)


def read_quarantine(file: Path) -> list[dict[str, object]]:
    """What is listed in `file`, but for a line that was cut; nothing if there is none."""
    return [image for image in read_lines(file) if "row" in image]
