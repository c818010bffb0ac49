"""Boxes as they are annotated, brought within their images."""

import logging
import math
from dataclasses import dataclass, field

from bt_ray.errors import DataError

_log = logging.getLogger(__name__)
Box = tuple[float, float, float, float]
"""Left, top, right and bottom edge, in pixels."""


@dataclass
class BoxCheck:
    """Brings boxes within their images, and counts what it did.

    A box that crosses an edge of its image is clipped, and one without area is left out, as in
    detectron2 and torchvision's references; both are said once. A box that lies outside of its
    image, ends before it begins, or has no finite number is refused: the annotation is of another
    image, or damaged.
    """

    of: str
    """Whose boxes these are, for messages."""
    num_clipped: int = 0
    most_px: float = 0.0
    """The most that a box crossed an edge by."""
    num_empty: int = 0
    _first: dict[str, str] = field(default_factory=dict)

    def fit(self, box: Box, width: int, height: int, where: str) -> Box | None:
        """The box within an image of this size; None if it has no area.

        Args:
          where: what it is the box of, for messages.
        Raises: DataError.
        """
        left, top, right, bottom = box
        if 0 <= left < right <= width and 0 <= top < bottom <= height:
            return box
        if not all(map(math.isfinite, box)) or right < left or bottom < top:
            raise DataError(f"{where} has no box: {_words(box)}; mend the annotation.")
        if right < 0 or bottom < 0 or left > width or top > height:
            raise DataError(
                f"{where} has the box {_words(box)}, which is outside of its image of "
                f"{width}×{height} pixels; mend the annotation."
            )
        fitted = (max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height))
        if fitted[0] >= fitted[2] or fitted[1] >= fitted[3]:
            self.num_empty += 1
            self._first.setdefault("empty", where)
            return None
        self.num_clipped += 1
        self.most_px = max(self.most_px, -left, -top, right - width, bottom - height)
        self._first.setdefault("clipped", where)
        return fitted

    def say(self) -> None:
        """Logs what was done, if anything."""
        if self.num_clipped:
            _log.warning(
                "%s: %s boxes cross an edge of their images, by up to %.3g pixels, and are "
                "clipped; the first: %s.",
                self.of, f"{self.num_clipped:,}", self.most_px, self._first["clipped"],
            )  # fmt: skip
        if self.num_empty:
            _log.warning(
                "%s: %s objects have boxes without area, and are left out; the first: %s.",
                self.of, f"{self.num_empty:,}", self._first["empty"],
            )  # fmt: skip


def _words(box: Box) -> str:
    return " ".join(f"{side:g}" for side in box)
