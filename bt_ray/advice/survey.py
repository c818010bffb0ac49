"""What a set of images is: how many, how large, of which kinds and classes, and what is twice."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bt_ray.advice.duplicates import FEWEST_PX, Duplicates, find_duplicates
from bt_ray.advice.glance import Glance, Kind, Unreadable, glance
from bt_ray.advice.sample import class_sizes, fair_sample
from bt_ray.data.preparation.prepare import Described
from bt_ray.data.sources.fetch import fetch
from bt_ray.errors import DataError

OnProgress = Callable[[str, int, int], None]
"""Called with what is done, the images done and all."""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """A set of images, as far as it was looked at."""

    count: int
    """Images of the whole set."""
    seen: Sequence[Glance]
    """Those that were looked at and can be decoded."""
    unreadable: Sequence[Unreadable]
    class_sizes: dict[str, int]
    """Images of each class, of the whole set; empty without labels."""
    duplicates: Duplicates

    @property
    def num_looked_at(self) -> int:
        """Images that were read."""
        return len(self.seen) + len(self.unreadable)

    @cached_property
    def kinds(self) -> dict[Kind, int]:
        """How many images are of which kind, the most frequent first."""
        return dict(Counter(one.kind for one in self.seen).most_common())

    @cached_property
    def sides(self) -> tuple[int, int, int]:
        """Shorter side of an image in pixels: smallest, median, largest."""
        shorter = [one.shorter_side for one in self.seen]
        return min(shorter), int(np.median(shorter)), max(shorter)

    @cached_property
    def sizes(self) -> tuple[str, str, str]:
        """Width × height of the smallest, the median and the largest image, by area."""
        by_area = sorted((one.width * one.height, one.width, one.height) for one in self.seen)
        picked = (by_area[0], by_area[len(by_area) // 2], by_area[-1])
        smallest, median, largest = (f"{width}×{height}" for _, width, height in picked)
        return smallest, median, largest

    @cached_property
    def num_too_small(self) -> int:
        """Images that were compared as files alone, not as pictures."""
        return sum(one.shorter_side < FEWEST_PX for one in self.seen)

    @cached_property
    def num_grey(self) -> int:
        """Images without colours, however they are stored."""
        return sum(one.is_grey for one in self.seen)

    @property
    def is_grey(self) -> bool:
        """Whether no image has colours."""
        return self.num_grey == len(self.seen)

    @cached_property
    def num_grey_in_colour(self) -> int:
        """Images without colours that are stored with more than one channel."""
        return sum(one.is_grey and one.kind.channels > 1 for one in self.seen)


def survey(described: Described, *, most: int, on_progress: OnProgress | None = None) -> Survey:
    """Looks at a set.

    Args:
      most: images that are read, at most.
    Raises: DataError if none can be decoded, or if they cannot be read.
    """
    total = min(described.manifest.num_rows, most)
    seen, unreadable = list[Glance](), list[Unreadable]()
    for number, one in enumerate(fetch(glance, fair_sample(described, most)), 1):
        seen.append(one) if isinstance(one, Glance) else unreadable.append(one)
        if on_progress is not None:
            on_progress("looked at", number, total)
    if not seen:
        raise DataError(
            f"None of the {len(unreadable):,} images that were looked at can be decoded, such as "
            f"{unreadable[0].name!r} ({unreadable[0].fault}); give other images."
        )
    return Survey(
        count=described.manifest.num_rows,
        seen=seen,
        unreadable=unreadable,
        class_sizes=class_sizes(described),
        duplicates=find_duplicates(seen),
    )
