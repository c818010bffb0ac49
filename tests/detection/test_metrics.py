"""COCO's average precision, against a plain rendering of its rule and against other evaluators."""

from collections.abc import Sequence
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

from bt_ray.detection.annotations import Objects
from bt_ray.detection.detections import Detections
from bt_ray.detection.masks import decode_mask
from bt_ray.detection.metrics import coco_scores
from bt_ray.errors import DataError
from tests.detection.made import NUM_CLASSES, SIDES, detections_of, draw, objects_of

THRESHOLDS = np.linspace(0.5, 0.95, 10)
SEEDS = range(6)


def _shapes(things: Detections | Objects, masks: bool) -> NDArray[np.float64]:
    """Masks (m, h, w), or boxes (m, 4)."""
    if not masks:
        return things.boxes.astype(np.float64)
    decoded = [decode_mask(counts, *SIDES) for counts in things.masks or ()]
    return np.array(decoded, np.float64).reshape(-1, *SIDES)


def _area(shape: NDArray[np.float64]) -> float:
    if shape.ndim == 2:
        return float(shape.sum())
    return float(max(0.0, shape[2] - shape[0]) * max(0.0, shape[3] - shape[1]))


def _overlap(a: NDArray[np.float64], b: NDArray[np.float64], is_crowd: bool) -> float:
    """IoU; of a crowd, the share of `a` that lies in it."""
    corners = [np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])]
    common = _area(a * b if a.ndim == 2 else np.concatenate(corners))
    return common / (_area(a) if is_crowd else _area(a) + _area(b) - common)


def _naive(found: Sequence[Detections], present: Sequence[Objects], masks: bool) -> list[float]:
    """AP at each threshold, the mean over the classes that have objects."""
    per_threshold = []
    for threshold in THRESHOLDS:
        per_class = []
        for label in range(NUM_CLASSES):
            events, total = [], 0
            for one, objects in zip(found, present, strict=True):
                own = np.flatnonzero(objects.labels == label)
                truths = [(_shapes(objects, masks)[k], bool(objects.is_crowd[k])) for k in own]
                total += sum(not crowd for _, crowd in truths)
                taken = [False] * len(truths)
                guesses = np.flatnonzero(one.labels == label)
                for k in guesses[np.argsort(-one.scores[guesses])][:100]:
                    shape = _shapes(one, masks)[k]
                    best: tuple[float, int] | None = None
                    for crowds in (False, True):  # a crowd only where no object is found
                        for j, (truth, crowd) in enumerate(truths):
                            if best is not None and truths[best[1]][1] != crowds:
                                continue
                            if crowd != crowds or (taken[j] and not crowd):
                                continue
                            share = _overlap(shape, truth, crowd)
                            if share >= (threshold if best is None else best[0]):
                                best = (share, j)
                    if best is None:
                        events.append((one.scores[k], False))
                    elif not truths[best[1]][1]:
                        taken[best[1]] = True
                        events.append((one.scores[k], True))
            if total == 0:
                continue
            right, curve = 0, []
            for seen, (_, hit) in enumerate(sorted(events, key=lambda event: -event[0]), start=1):
                right += hit
                curve.append((right / total, right / seen))
            levels = [
                max([precision for recall, precision in curve if recall >= level], default=0.0)
                for level in np.linspace(0, 1, 101)
            ]
            per_class.append(np.mean(levels))
        per_threshold.append(float(np.mean(per_class)))
    return per_threshold


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_scores_are_those_of_the_rule(seed: int, masks: bool) -> None:
    found, present = draw(seed)
    scores = coco_scores(found, present, NUM_CLASSES, masks=masks)
    expected = _naive(found, present, masks)
    assert 0.05 < np.mean(expected) < 0.95
    assert scores == pytest.approx(
        {"ap": np.mean(expected), "ap50": expected[0], "ap75": expected[5]}, rel=1e-9
    )


def test_the_scores_are_those_of_pycocotools() -> None:
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    for seed in SEEDS:
        for masks in (False, True):
            _compare(coco, evaluation, seed, masks)


def _compare(coco: ModuleType, evaluation: ModuleType, seed: int, masks: bool) -> None:
    found, present = draw(seed, num_images=40)
    truth, guess = coco.COCO(), coco.COCO()
    for api, entries in ((truth, present), (guess, found)):
        api.dataset = {
            "images": [{"id": n, "height": SIDES[0], "width": SIDES[1]} for n in range(40)],
            "categories": [{"id": label} for label in range(NUM_CLASSES)],
            "annotations": [
                {
                    "id": 1000 * image + k + 1,
                    "image_id": image,
                    "category_id": int(things.labels[k]),
                    "bbox": [*box[:2], *(box[2:] - box[:2])],
                    "area": float(np.prod(box[2:] - box[:2])),
                    "segmentation": {"size": SIDES, "counts": (things.masks or ())[k]},
                    "iscrowd": int(isinstance(things, Objects) and things.is_crowd[k]),
                    "score": float(things.scores[k]) if isinstance(things, Detections) else 0.0,
                }
                for image, things in enumerate(entries)
                for k, box in enumerate(things.boxes.astype(np.float64))
            ],
        }
        api.createIndex()
    evaluator = evaluation.COCOeval(truth, guess, "segm" if masks else "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    scores = coco_scores(found, present, NUM_CLASSES, masks=masks)
    assert list(scores.values()) == pytest.approx(evaluator.stats[:3].tolist(), rel=1e-12)


BOX, ELSEWHERE = [10, 10, 20, 20], [30, 30, 40, 40]


def test_what_is_found_in_a_crowd_is_not_wrong() -> None:
    present = [objects_of([BOX, ELSEWHERE], [0, 0], crowd=[1])]
    inside = detections_of([[31, 31, 35, 35], [34, 34, 38, 38], BOX], [0, 0, 0], [0.9, 0.8, 0.7])
    assert coco_scores([inside], present, 1)["ap"] == pytest.approx(1)
    outside = detections_of([[1, 31, 5, 35], BOX], [0, 0], [0.9, 0.7])
    assert coco_scores([outside], present, 1)["ap"] == pytest.approx(0.5)


def test_only_a_hundred_detections_of_a_class_count() -> None:
    present = [objects_of([BOX], [0])]
    for wrong, ap in ((99, 0.01), (100, 0)):
        boxes = [*([ELSEWHERE] * wrong), BOX]
        found = detections_of(boxes, [0] * len(boxes), np.linspace(1, 0.1, len(boxes)).tolist())
        assert coco_scores([found], present, 1)["ap"] == pytest.approx(ap)


@pytest.mark.parametrize("masks", [False, True])
def test_nothing_found_scores_nothing(masks: bool) -> None:
    _, present = draw(0)
    nothing = [detections_of([], [], [], ()) for _ in present]
    assert set(coco_scores(nothing, present, NUM_CLASSES, masks=masks).values()) == {0}
    found, _ = draw(0)
    empty = [objects_of([], [], masks=()) for _ in found]
    assert set(coco_scores(found, empty, NUM_CLASSES, masks=masks).values()) == {0}
    assert set(coco_scores([], [], NUM_CLASSES, masks=masks).values()) == {0}


def test_missing_masks_are_an_error() -> None:
    found, _ = draw(0)
    with pytest.raises(DataError, match="has no masks"):
        coco_scores(found, [objects_of([BOX], [0]) for _ in found], NUM_CLASSES, masks=True)
