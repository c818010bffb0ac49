"""Masks and their run lengths, beside a decoder that follows their definition."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from bt_ray.detection.masks import (
    decode_mask,
    encode_mask,
    encode_polygons,
    encode_runs,
    read_runs,
    scale_mask,
)


def filled(runs: list[int], height: int, width: int) -> NDArray[np.uint8]:
    """The mask that run lengths describe, pixel by pixel."""
    levels = [number % 2 for number, run in enumerate(runs) for _ in range(run)]
    return np.array(levels, np.uint8).reshape(width, height).T


def random_mask(seed: int) -> NDArray[np.uint8]:
    random = np.random.default_rng(seed)
    height, width = random.integers(1, 50, 2)
    cells = random.random((height, width)) < random.random()
    mask = np.kron(cells, np.ones((1 + seed % 9, 1 + seed % 4)))
    return mask.astype(np.uint8)


@pytest.mark.parametrize("seed", range(30))
def test_masks_come_back(seed: int) -> None:
    mask = random_mask(seed)
    height, width = mask.shape
    counts = encode_mask(mask)
    np.testing.assert_array_equal(decode_mask(counts, height, width), mask)
    runs = read_runs(counts)
    np.testing.assert_array_equal(filled(runs, height, width), mask)
    assert encode_runs(runs, height, width) == counts


def test_long_runs_are_read() -> None:
    """A blank image of a million pixels, and one with a pixel in its middle."""
    mask = np.zeros((1000, 1000), np.uint8)
    assert read_runs(encode_mask(mask)) == [1_000_000]
    mask[500, 700] = 1
    assert read_runs(encode_mask(mask)) == [700_500, 1, 299_499]


def test_run_lengths_that_are_cut_short_are_told() -> None:
    counts = encode_mask(np.eye(40, dtype=np.uint8))
    with pytest.raises(IndexError):
        read_runs(encode_runs([1000, 600], 40, 40)[:1])
    with pytest.raises(ValueError, match="no group of bits"):
        read_runs(counts[:-1] + b" ")


def test_polygons_with_whole_corners_are_exact() -> None:
    """Two rectangles that overlap, one of which leaves the image."""
    expected = np.zeros((20, 30), np.uint8)
    expected[2:8, 4:12] = expected[5:20, 10:30] = 1
    polygons = [[4.0, 2, 12, 2, 12, 8, 4, 8], [10, 5, 35, 5, 35, 26, 10, 26]]
    got = decode_mask(encode_polygons(polygons, 20, 30), 20, 30)
    np.testing.assert_array_equal(got, expected)


def test_a_polygon_is_filled_as_pillow_fills_it() -> None:
    """But for its rim, which each counts in its own way."""
    random = np.random.default_rng(0)
    angle = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    radius = random.uniform(20, 40, 12)
    points = np.stack([50 + radius * np.cos(angle), 45 + radius * np.sin(angle)], 1)
    got = decode_mask(encode_polygons([points.ravel().tolist()], 90, 100), 90, 100)
    picture = Image.new("1", (100, 90))
    ImageDraw.Draw(picture).polygon([tuple(p) for p in (points - 0.5).tolist()], fill=1)
    assert (got != np.asarray(picture)).sum() < 0.04 * got.sum()


@pytest.mark.parametrize("size", [(13, 7), (90, 100), (33, 64)])
def test_masks_are_scaled_to_the_nearest_pixel(size: tuple[int, int]) -> None:
    mask = np.kron(random_mask(3), np.ones((3, 5))).astype(np.uint8)
    height, width = size
    expected = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
    assert (scale_mask(mask, height, width) != np.asarray(expected)).mean() < 0.01
