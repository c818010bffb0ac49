"""Images with objects, and what an imperfect detector finds in them, drawn at random."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bt_ray.detection.annotations import Objects
from bt_ray.detection.detections import Detections
from bt_ray.detection.masks import encode_mask

SIDES = (48, 64)
"""Height and width of every image."""
NUM_CLASSES = 4
"""Of which the last one has no objects, but is found."""


def objects_of(
    boxes: Sequence[Sequence[float]],
    labels: Sequence[int],
    *,
    crowd: Sequence[int] = (),
    difficult: Sequence[int] = (),
    masks: tuple[bytes, ...] | None = None,
    sides: tuple[int, int] = SIDES,
) -> Objects:
    """An image's objects, of which those numbers are crowds, or difficult."""
    numbers = np.arange(len(labels))
    return Objects(
        height=sides[0],
        width=sides[1],
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        is_crowd=np.isin(numbers, crowd),
        is_difficult=np.isin(numbers, difficult),
        masks=masks,
    )


def detections_of(
    boxes: Sequence[Sequence[float]],
    labels: Sequence[int],
    scores: Sequence[float],
    masks: tuple[bytes, ...] | None = None,
) -> Detections:
    """What was found in an image."""
    return Detections(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        scores=np.array(scores, np.float32),
        masks=masks,
    )


def draw(
    seed: int, *, num_images: int = 12, special: bool = True
) -> tuple[list[Detections], list[Objects]]:
    """What is found, and what there is, in some images, with masks; a few have nothing of one kind.

    Args:
      special: whether some objects are crowds and some difficult.
    """
    rng = np.random.default_rng(seed)
    found, present = [], []
    for _ in range(num_images):
        boxes = _boxes(rng, int(rng.integers(0, 7)))
        labels = rng.integers(0, NUM_CLASSES - 1, len(boxes))
        numbers = np.arange(len(boxes))
        crowd = numbers[rng.random(len(boxes)) < 0.15] if special else ()
        difficult = numbers[rng.random(len(boxes)) < 0.25] if special else ()
        masks = _ellipses(boxes)
        present.append(objects_of(boxes, labels, crowd=crowd, difficult=difficult, masks=masks))
        sources = np.repeat(numbers, rng.integers(0, 4, len(boxes)))
        near = boxes[sources] + rng.normal(0, 1.5, (len(sources), 4))
        wrong = _boxes(rng, int(rng.integers(0, 4)))
        all_boxes = np.concatenate([near, wrong])
        all_boxes[:, 2:] = np.maximum(all_boxes[:, 2:], all_boxes[:, :2] + 1)
        all_labels = np.append(labels[sources], rng.integers(0, NUM_CLASSES, len(wrong)))
        scores = rng.permutation(1000)[: len(all_boxes)] / 1000 + rng.random() / 1e4
        found.append(detections_of(all_boxes, all_labels, scores, _ellipses(all_boxes)))
    return found, present


def _boxes(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    height, width = SIDES
    corner = rng.uniform((0, 0), (width - 20, height - 20), (count, 2))
    return np.concatenate([corner, corner + rng.uniform(6, 20, (count, 2))], axis=1)


def _ellipses(boxes: NDArray[np.float64]) -> tuple[bytes, ...]:
    """The masks of ellipses that touch the boxes' edges."""
    y, x = np.mgrid[: SIDES[0], : SIDES[1]] + 0.5
    masks = []
    for left, top, right, bottom in boxes:
        across = (x - (left + right) / 2) / (right - left)
        down = (y - (top + bottom) / 2) / (bottom - top)
        masks.append(encode_mask((across**2 + down**2 <= 0.25).astype(np.uint8)))
    return tuple(masks)
