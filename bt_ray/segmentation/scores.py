"""Mean intersection over union and pixel accuracy, by torchmetrics."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bt_ray.errors import LaunchError
from bt_ray.segmentation.masks import IGNORED


@dataclass(frozen=True)
class SegmentationScores:
    """Shares, 0 to 1, over the pixels of all images that are not ignored.

    `mean_iou` is the mean over the classes that are in the masks or were predicted; `iou` has none
    for the others.
    """

    mean_iou: float
    pixel_accuracy: float
    iou: dict[str, float | None]


class Scorer:
    """Gathers predictions and labels of any sizes.

    Args:
      classes: names by index, of two classes at least.
    Raises: LaunchError if torchmetrics is not installed.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        metrics, count = _metrics(), len(classes)
        ignored = {"num_classes": count, "ignore_index": IGNORED, "validate_args": False}
        self._classes = tuple(classes)
        self._each = metrics.MulticlassJaccardIndex(average="none", **ignored)
        self._mean = metrics.MulticlassJaccardIndex(average="macro", **ignored)
        self._accuracy = metrics.MulticlassAccuracy(average="micro", **ignored)

    def update(self, predicted: Tensor, labels: Tensor) -> None:
        """Counts the pixels of some images of one size.

        Args:
          predicted, labels: int64 (n, h, w), on the CPU.
        """
        for metric in (self._each, self._mean, self._accuracy):
            metric.update(predicted, labels)

    def compute(self) -> SegmentationScores:
        """The scores of all that was counted."""
        counts = self._each.confmat
        seen = counts.sum(0) + counts.sum(1) > 0
        shares = zip(self._classes, self._each.compute().tolist(), seen.tolist(), strict=True)
        return SegmentationScores(
            mean_iou=float(self._mean.compute()),
            pixel_accuracy=float(self._accuracy.compute()),
            iou={name: share if is_seen else None for name, share, is_seen in shares},
        )


def _metrics() -> Any:
    try:
        from torchmetrics import classification
    except ImportError as error:
        raise LaunchError(
            "Segmentation needs torchmetrics: `pip install 'bt-ray[detection]'`."
        ) from error
    return classification
