"""Average precision as Pascal VOC counts it.

Detections of a class are taken by score, over all images. Each belongs to the one object of its
class in its image that it overlaps most; it is right if their IoU is above the threshold and no
detection before it has that object, and wrong otherwise. What belongs to a difficult object is
neither right nor wrong, and difficult objects need not be found.

VOC's boxes name their first and their last pixel, so that a side is `last − first + 1` pixels.
Boxes here have edges, of which the right one and the lower one are no part of the box: the same
side is `right − left`, and IoU is the same number.

Source: Everingham et al. 2010, section 4.2 (the rule, 11 points); VOC2010's development kit (the
area). An IoU of exactly the threshold, which the paper says must be exceeded, counts in the kit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bt_ray.detection.annotations import Objects
from bt_ray.detection.detections import Detections

THRESHOLDS = tuple(hundredths / 100 for hundredths in range(50, 100, 5))
"""Of IoU: COCO takes the mean over them, and so do, with VOC's rule, He et al. 2019."""
Year = Literal[2007, 2010]
"""2007: the mean of the highest precision from 11 levels of recall on; 2010: the area under the
highest precision from each recall on."""


@dataclass(frozen=True)
class _Pairs:
    """Every detection with the object that it overlaps most, in all images, by falling score."""

    labels: NDArray[np.int64]
    overlaps: NDArray[np.float64]
    """IoU, −1 where the image has no object of the class."""
    objects: NDArray[np.int64]
    """The object's number in all images; any where there is none."""
    is_difficult: NDArray[np.bool_]
    """Of the object."""
    num_objects: NDArray[np.int64]
    """(num_classes,), objects of each class that are to be found."""


def voc_scores(
    found: Sequence[Detections],
    present: Sequence[Objects],
    num_classes: int,
    *,
    year: Year,
    thresholds: Sequence[float] = THRESHOLDS,
) -> list[float]:
    """AP at each threshold of IoU, the mean over the classes; shares, 0 to 1.

    Crowds, which VOC does not have, are taken for difficult objects. A class without an object to
    be found is left out; if that is every class, the scores are 0.

    Args:
      found, present: one entry an image, in the same order.
    """
    pairs = _pair(found, present, num_classes)
    counted = np.flatnonzero(pairs.num_objects).tolist()
    if not counted:
        return [0.0] * len(thresholds)
    return [
        float(np.mean([_precision(pairs, label, threshold, year) for label in counted]))
        for threshold in thresholds
    ]


def _pair(found: Sequence[Detections], present: Sequence[Objects], num_classes: int) -> _Pairs:
    num_objects, seen = np.zeros(num_classes, np.int64), 0
    overlaps, objects, difficult = [np.empty(0)], [np.empty(0, np.int64)], [np.empty(0, bool)]
    for detections, image in zip(found, present, strict=True):
        is_difficult = image.is_difficult | image.is_crowd
        num_objects += np.bincount(image.labels[~is_difficult], minlength=num_classes)
        shares = _overlaps(detections.boxes, image.boxes)
        shares[detections.labels[:, None] != image.labels] = -1
        shares = np.pad(shares, ((0, 0), (1, 0)), constant_values=-1)  # the first one: no object
        best = shares.argmax(axis=1)
        overlaps.append(shares[np.arange(len(best)), best])
        objects.append(seen + best)
        difficult.append(np.append(False, is_difficult)[best])
        seen += shares.shape[1]
    scores = [one.scores for one in found]
    order = np.argsort(-np.concatenate([np.empty(0, np.float32), *scores]), kind="stable")
    labels = np.concatenate([np.empty(0, np.int64), *(one.labels for one in found)])
    return _Pairs(
        labels=labels[order],
        overlaps=np.concatenate(overlaps)[order],
        objects=np.concatenate(objects)[order],
        is_difficult=np.concatenate(difficult)[order],
        num_objects=num_objects,
    )


def _overlaps(boxes: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float64]:
    """IoU (n, m) of boxes (n, 4) and (m, 4); 0 where neither has an area."""
    a, b = boxes.astype(np.float64)[:, None], others.astype(np.float64)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    common = sides.clip(min=0).prod(axis=-1)
    areas = [(box[..., 2:] - box[..., :2]).prod(axis=-1) for box in (a, b)]
    both = areas[0] + areas[1] - common
    shares: NDArray[np.float64] = np.zeros_like(common)
    np.divide(common, both, out=shares, where=both > 0)
    return shares


def _precision(pairs: _Pairs, label: int, threshold: float, year: Year) -> float:
    """AP of one class."""
    own = pairs.labels == label
    overlaps = pairs.overlaps[own] > threshold
    counts = ~(overlaps & pairs.is_difficult[own])
    places = np.flatnonzero(overlaps & counts)
    is_right = np.zeros(len(overlaps), bool)
    is_right[places[np.unique(pairs.objects[own][places], return_index=True)[1]]] = True
    right = is_right[counts].cumsum()  # among the first 1, 2, … detections
    if not len(right):
        return 0.0
    precision = right / np.arange(1, len(right) + 1)
    highest = np.maximum.accumulate(precision[::-1])[::-1]  # from each detection on
    total = int(pairs.num_objects[label])
    if year == 2010:
        return float(highest[is_right[counts]].sum() / total)
    first = np.searchsorted(10 * right, np.arange(11) * total)  # of recall k / 10 or more
    return float(highest[first[first < len(highest)]].sum() / 11)
