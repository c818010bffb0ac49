"""VOC's average precision, against a plain rendering of its rule on VOC's own, inclusive pixels."""

from collections.abc import Sequence
from types import ModuleType

import numpy as np
import pytest

from bt_ray.detection.annotations import Objects
from bt_ray.detection.detections import Detections
from bt_ray.detection.voc_rule import THRESHOLDS, Year, voc_scores
from tests.detection.made import NUM_CLASSES, detections_of, draw, objects_of

SEEDS = range(8)


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """IoU of boxes whose last pixel is part of them."""

    def pixels(box: Sequence[float]) -> float:
        return max(0.0, box[2] - box[0] + 1) * max(0.0, box[3] - box[1] + 1)

    common = pixels([max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])])
    return common / (pixels(a) + pixels(b) - common)


def _as_voc(box: Sequence[float]) -> list[float]:
    """First and last pixel, counted from 1."""
    left, top, right, bottom = (float(edge) for edge in box)
    return [left + 1, top + 1, right, bottom]


def _naive(
    found: Sequence[Detections], present: Sequence[Objects], threshold: float, year: Year
) -> float:
    per_class = []
    for label in range(NUM_CLASSES):
        ranked = sorted(
            (
                (float(score), image, _as_voc(box))
                for image, one in enumerate(found)
                for box, at, score in zip(one.boxes, one.labels, one.scores, strict=True)
                if at == label
            ),
            key=lambda entry: -entry[0],
        )
        skipped = [objects.is_difficult | objects.is_crowd for objects in present]
        total = sum(
            int((objects.labels[~skip] == label).sum())
            for objects, skip in zip(present, skipped, strict=True)
        )
        if total == 0:
            continue
        taken: set[tuple[int, int]] = set()
        right = wrong = 0
        curve = []
        for _, image, box in ranked:
            objects = present[image]
            own = [k for k in range(len(objects)) if objects.labels[k] == label]
            shares = [_overlap(box, _as_voc(objects.boxes[k])) for k in own]
            best = own[int(np.argmax(shares))] if own else -1
            if own and max(shares) > threshold:
                if skipped[image][best]:
                    continue
                is_first = (image, best) not in taken
                taken.add((image, best))
                right, wrong = right + is_first, wrong + (not is_first)
            else:
                wrong += 1
            curve.append((right, right / (right + wrong)))
        per_class.append(_area(curve, total) if year == 2010 else _eleven(curve, total))
    return float(np.mean(per_class))


def _area(curve: Sequence[tuple[int, float]], total: int) -> float:
    area = 0.0
    for wanted in range(1, total + 1):
        area += max([p for right, p in curve if right >= wanted], default=0.0) / total
    return area


def _eleven(curve: Sequence[tuple[int, float]], total: int) -> float:
    levels = [max([p for n, p in curve if 10 * n >= k * total], default=0.0) for k in range(11)]
    return sum(levels) / 11


@pytest.mark.parametrize("year", [2007, 2010])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_scores_are_those_of_the_rule(seed: int, year: Year) -> None:
    found, present = draw(seed)
    scores = voc_scores(found, present, NUM_CLASSES, year=year)
    expected = [_naive(found, present, threshold, year) for threshold in THRESHOLDS]
    assert 0.1 < expected[0] < 0.95
    assert scores == pytest.approx(expected, rel=1e-9)


def test_the_scores_are_those_of_another_evaluator() -> None:
    """Of objects none of which is difficult, which `mean-average-precision` counts."""
    theirs = pytest.importorskip("mean_average_precision")
    for seed in SEEDS:
        for year in (2007, 2010):
            _compare(theirs, seed, year)


def _compare(theirs: ModuleType, seed: int, year: Year) -> None:
    found, present = draw(seed, num_images=30, special=False)
    metric = theirs.MetricBuilder.build_evaluation_metric("map_2d", num_classes=NUM_CLASSES)
    for one, objects in zip(found, present, strict=True):
        boxes = np.array([_as_voc(box) for box in one.boxes]).reshape(-1, 4)
        truths = np.array([_as_voc(box) for box in objects.boxes]).reshape(-1, 4)
        metric.add(
            np.column_stack([boxes, one.labels, one.scores]),
            np.column_stack([truths, objects.labels, np.zeros((len(objects), 2))]),
        )
    recalls = np.arange(11) / 10 if year == 2007 else None
    at = metric.value(iou_thresholds=[0.5, 0.7], recall_thresholds=recalls)
    expected = [
        np.mean([at[threshold][label]["ap"] for label in range(NUM_CLASSES - 1)])
        for threshold in (0.5, 0.7)
    ]
    scores = voc_scores(found, present, NUM_CLASSES, year=year, thresholds=[0.5, 0.7])
    assert scores == pytest.approx(expected, rel=1e-6)


BOX, OTHER, ELSEWHERE = [10, 10, 20, 20], [22, 10, 32, 20], [40, 30, 50, 40]


def _at_50(found: Detections, present: Objects, year: Year = 2010) -> float:
    return voc_scores([found], [present], 2, year=year, thresholds=[0.5])[0]


def test_a_second_detection_of_an_object_is_wrong() -> None:
    present = objects_of([BOX, ELSEWHERE], [0, 0])
    twice = detections_of([BOX, BOX, ELSEWHERE], [0, 0, 0], [0.9, 0.8, 0.7])
    assert _at_50(twice, present) == pytest.approx((1 + 2 / 3) / 2)
    assert _at_50(twice, present, 2007) == pytest.approx((6 + 5 * 2 / 3) / 11)


def test_it_stays_with_the_object_that_it_overlaps_most() -> None:
    """Where COCO's rule would give it the other one, which is free."""
    present = objects_of([BOX, [11, 10, 21, 20]], [0, 0])
    both = detections_of([BOX, [10.4, 10, 20.4, 20]], [0, 0], [0.9, 0.8])
    assert _at_50(both, present) == pytest.approx(0.5)


def test_difficult_objects_neither_count_nor_harm() -> None:
    present = objects_of([BOX, OTHER], [0, 0], difficult=[1])
    only = detections_of([BOX], [0], [0.5])
    also = detections_of([OTHER, OTHER, BOX], [0, 0, 0], [0.9, 0.8, 0.5])
    wrong = detections_of([ELSEWHERE, BOX], [0, 0], [0.9, 0.5])
    assert [_at_50(found, present) for found in (only, also, wrong)] == [1, 1, 0.5]
    assert _at_50(only, objects_of([BOX], [0], difficult=[0])) == 0


def test_an_overlap_of_exactly_a_half_is_not_enough() -> None:
    present = objects_of([[0, 0, 10, 10]], [0])
    assert _at_50(detections_of([[0, 0, 10, 5]], [0], [0.9]), present) == 0
    assert _at_50(detections_of([[0, 0, 10, 5.01]], [0], [0.9]), present) == 1


def test_every_tenth_of_recall_is_reached_by_as_many_objects() -> None:
    """3 of 10 objects are 0.3, which 0.1 + 0.1 + 0.1 is not."""
    places = [[12 * k, 0, 12 * k + 10, 10] for k in range(10)]
    for count in range(1, 11):
        found = detections_of(places[:count], [0] * count, np.linspace(1, 0.5, count).tolist())
        assert _at_50(found, objects_of(places, [0] * 10), 2007) == pytest.approx((count + 1) / 11)


def test_nothing_found_scores_nothing() -> None:
    found, present = draw(0)
    nothing, empty = detections_of([], [], []), objects_of([], [])
    for year in (2007, 2010):
        for pair in (([nothing] * 12, present), (found, [empty] * 12), ([], [])):
            assert set(voc_scores(*pair, NUM_CLASSES, year=year)) == {0}  # type: ignore[arg-type]
