"""Average precision as COCO counts it, of boxes and of masks.

Source: Lin et al. 2014, and COCO's evaluation server. Detections of a class are matched to its
objects by score, each to the free object that it overlaps most; AP is the mean, over classes and
101 levels of recall, of the highest precision from there on.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bt_ray.detection.annotations import Objects
from bt_ray.detection.detections import Detections
from bt_ray.errors import DataError, LaunchError

MOST_DETECTIONS = 100
"""Detections that count of one class in one image, those of the highest scores."""
_AREA = [0.0, 1e10]  # COCO's range "all"
_AT_50, _AT_75 = 0, 5  # places among the ten thresholds 0.5, 0.55, …, 0.95


def coco_scores(
    found: Sequence[Detections],
    present: Sequence[Objects],
    num_classes: int,
    *,
    masks: bool = False,
) -> dict[str, float]:
    """`ap`, the mean over the IoU thresholds 0.5, 0.55, …, 0.95; `ap50`; `ap75`; shares, 0 to 1.

    What lies for the most part in a crowd is not counted as wrong, and a crowd need not be found.
    Objects that VOC calls difficult count like all others. A class of which no image has an object
    is left out; if that is every class, the scores are 0.

    Args:
      found, present: one entry an image, in the same order.
      masks: whether to compare masks, which both have then, instead of boxes.
    Raises: DataError if masks are missing; LaunchError without faster-coco-eval.
    """
    coco, evaluation = _api()
    images = [
        {"id": number, "height": objects.height, "width": objects.width}
        for number, objects in enumerate(present)
    ]
    classes = [{"id": label} for label in range(num_classes)]
    truths = [_truths(number, objects, masks) for number, objects in enumerate(present)]
    guesses = [
        _guesses(number, one, objects, masks)
        for number, (one, objects) in enumerate(zip(found, present, strict=True))
    ]
    truth, guess = (
        coco({"images": images, "categories": classes, "annotations": _numbered(entries)})
        for entries in (truths, guesses)
    )
    evaluator = evaluation(truth, guess, "segm" if masks else "bbox", print_function=_say_nothing)
    evaluator.params.areaRng, evaluator.params.areaRngLbl = [_AREA], ["all"]
    evaluator.params.maxDets = [MOST_DETECTIONS]
    evaluator.evaluate()
    evaluator.accumulate()
    precision = np.asarray(evaluator.eval["precision"])  # (thresholds, recalls, classes, 1, 1)
    return {
        "ap": _mean(precision),
        "ap50": _mean(precision[_AT_50]),
        "ap75": _mean(precision[_AT_75]),
    }


def _mean(precision: NDArray[np.float64]) -> float:
    """The mean over the classes that have objects; of the others precision is −1."""
    counted = precision[precision > -1]
    return float(counted.mean()) if counted.size else 0.0


def _truths(image: int, objects: Objects, masks: bool) -> list[dict[str, Any]]:
    """COCO's entries of an image's objects."""
    return [
        entry | {"iscrowd": int(is_crowd)}
        for entry, is_crowd in zip(
            _entries(image, objects, objects, masks), objects.is_crowd, strict=True
        )
    ]


def _guesses(image: int, found: Detections, of: Objects, masks: bool) -> list[dict[str, Any]]:
    """COCO's entries of what was found in an image."""
    return [
        entry | {"score": float(score), "iscrowd": 0}
        for entry, score in zip(_entries(image, found, of, masks), found.scores, strict=True)
    ]


def _entries(
    image: int, things: Objects | Detections, of: Objects, masks: bool
) -> list[dict[str, Any]]:
    """What both have: class, box as COCO writes it, and mask if there is one to compare.

    Args:
      of: the image's objects, which know its sides.
    """
    left_top, right_bottom = np.split(things.boxes.astype(np.float64), 2, axis=1)
    sides = right_bottom - left_top
    entries: list[dict[str, Any]] = [
        {"image_id": image, "category_id": label, "bbox": box, "area": area}
        for label, box, area in zip(
            things.labels.tolist(),
            np.concatenate([left_top, sides], axis=1).tolist(),
            sides.prod(axis=1).tolist(),
            strict=True,
        )
    ]
    if masks and entries:
        if things.masks is None:
            raise DataError(
                f"Image {image} of the scored ones has no masks; score boxes alone, or give "
                "annotations with masks."
            )
        for entry, counts in zip(entries, things.masks, strict=True):
            entry["segmentation"] = {"size": [of.height, of.width], "counts": counts}
    return entries


def _numbered(images: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """All images' entries with numbers from 1 on, as the evaluator needs them."""
    entries = (entry for image in images for entry in image)
    return [{**entry, "id": number} for number, entry in enumerate(entries, start=1)]


def _say_nothing(*_: object) -> None:
    pass


def _api() -> tuple[Any, Any]:
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise LaunchError(
            f"Detection needs {error.name}: `pip install 'bt-ray[detection]'`."
        ) from error
    return COCO, COCOeval_faster
