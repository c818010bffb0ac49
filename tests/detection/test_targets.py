"""Boxes and masks follow their image, wherever its scene puts it."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from bt_ray.detection.annotations import Objects
from bt_ray.detection.masks import encode_mask
from bt_ray.detection.protocols import SceneScaling
from bt_ray.detection.scenes import SceneParameters, apply_scene, draw_scenes, still_scenes
from bt_ray.detection.targets import build_target

SCALING = SceneScaling(short_px=(40, 60, 100), test_short_px=64, longest_px=160)


def painted(seed: int) -> tuple[NDArray[np.uint8], Objects]:
    """A black image with a white rectangle, its box and its mask."""
    random = np.random.default_rng(seed)
    height, width = random.integers(50, 120, 2).tolist()
    left, top = random.integers(0, 20, 2)
    right, bottom = left + random.integers(20, 30), top + random.integers(20, 30)
    image = np.zeros((height, width, 3), np.uint8)
    image[top:bottom, left:right] = 255
    return image, objects(height, width, [[left, top, right, bottom]], image[:, :, 0] // 255)


def objects(height: int, width: int, boxes: list[list[int]], mask: NDArray[np.uint8]) -> Objects:
    return Objects(
        height=height,
        width=width,
        boxes=np.array(boxes, np.float32),
        labels=np.arange(len(boxes)) + 4,
        is_crowd=np.zeros(len(boxes), bool),
        is_difficult=np.zeros(len(boxes), bool),
        masks=(encode_mask(mask),) * len(boxes),
    )


def scene(seed: int, *, still: bool) -> tuple[NDArray[np.uint8], Objects, SceneParameters]:
    """A painted image, what is in it, and the scene's parameters, in a canvas that was used."""
    image, found = painted(seed)
    sizes = [np.array([side]) for side in (found.width, found.height)]
    drawn = (
        still_scenes(SCALING, *sizes)
        if still
        else draw_scenes(
            SCALING, seed=1, epoch=2, samples=np.array([seed]), widths=sizes[0], heights=sizes[1]
        )
    )
    canvas = np.full((3, SCALING.canvas_px, SCALING.canvas_px), 77, np.uint8)
    apply_scene(image, drawn, 0, canvas)
    return canvas, found, drawn


@pytest.mark.parametrize("still", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_the_rectangle_is_where_its_box_is(seed: int, still: bool) -> None:
    canvas, found, drawn = scene(seed, still=still)
    target = build_target(found, drawn, 0, masks=True)
    bright = canvas[0] > 127
    rows, columns = (np.flatnonzero(bright.any(axis=axis)) for axis in (1, 0))
    edges = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    np.testing.assert_allclose(target["boxes"].numpy(), [edges], atol=1.01)
    mask = target["masks"].numpy()[0]
    height, width = int(drawn.heights[0]), int(drawn.widths[0])
    assert mask.shape == (height, width)
    assert (mask != bright[:height, :width]).sum() < 0.1 * mask.sum()


def test_both_are_scaled_and_flipped() -> None:
    """The seeds above hold images that are flipped and such that are not, smaller and larger."""
    drawn = [(scene(seed, still=False)) for seed in range(12)]
    flips = [bool(parameters.flip[0]) for _, _, parameters in drawn]
    scales = [parameters.widths[0] / found.width for _, found, parameters in drawn]
    assert {True, False} <= set(flips)
    assert min(scales) < 0.9 < 1.1 < max(scales)


def test_boxes_are_scaled_by_each_side_and_turned_at_the_middle() -> None:
    mask = np.zeros((50, 100), np.uint8)
    boxes = [[10, 5, 40, 30], [0, 0, 100, 50], [99, 49, 100, 50]]
    parameters = SceneParameters(
        widths=np.array([0, 150]), heights=np.array([0, 76]), flip=np.array([False, True])
    )
    target = build_target(objects(50, 100, boxes, mask), parameters, 1)
    x, y = 150 / 100, 76 / 50
    expected = [
        [150 - right * x, top * y, 150 - left * x, bottom * y] for left, top, right, bottom in boxes
    ]
    np.testing.assert_allclose(target["boxes"].numpy(), expected, rtol=1e-6)
    assert target["labels"].tolist() == [5, 6, 7], "0 is the background"
    assert set(target) == {"boxes", "labels"}


def test_crowds_are_left_out_and_difficult_objects_are_not() -> None:
    _, found = painted(0)
    several = replace(
        found,
        boxes=np.repeat(found.boxes, 3, axis=0),
        labels=np.array([0, 1, 2]),
        is_crowd=np.array([False, True, False]),
        is_difficult=np.array([False, False, True]),
        masks=(found.masks or ()) * 3,
    )
    sizes = [np.array([side]) for side in (found.width, found.height)]
    target = build_target(several, still_scenes(SCALING, *sizes), 0, masks=True)
    assert target["labels"].tolist() == [1, 3]
    assert len(target["boxes"]) == len(target["masks"]) == 2


def test_boxes_that_scaling_leaves_no_area_are_left_out() -> None:
    """A width of 1e-6 pixels is none in float32 once it is counted from the other side."""
    mask = np.ones((50, 100), np.uint8)
    found = objects(50, 100, [[10, 5, 10, 30], [10, 5, 40, 30]], mask)
    found.boxes[0, 2] += 1e-6
    drawn = SceneParameters(widths=np.array([100]), heights=np.array([50]), flip=np.array([True]))
    target = build_target(found, drawn, 0, masks=True)
    assert target["labels"].tolist() == [6]
    assert target["boxes"].tolist() == [[60, 5, 90, 30]]
    assert len(target["masks"]) == 1


def test_an_image_without_objects_has_empty_targets() -> None:
    none = objects(30, 40, [], np.zeros((30, 40), np.uint8))
    none = replace(none, boxes=none.boxes.reshape(0, 4))
    drawn = still_scenes(SCALING, np.array([40]), np.array([30]))
    target = build_target(none, drawn, 0, masks=True)
    assert target["boxes"].shape == (0, 4)
    assert target["labels"].shape == (0,)
    assert target["masks"].shape == (0, 64, 85)
