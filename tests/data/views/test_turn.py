"""Views that are turned: rotated, by quarters, upside down; and crops with a floor."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import map_coordinates

from bt_ray.config import ViewSettings
from bt_ray.data.views.draw import ViewParameters
from bt_ray.data.views.turn import turn
from tests.data.views.test_planes import picture
from tests.data.views.test_views import draw

TURNED = ViewSettings(vertical_flip_probability=0.3, quarter_turns=True, rotation_degrees=25.0)


def drawn(degrees: float = 0.0, quarters: int = 0, flip: bool = False) -> ViewParameters:
    return replace(
        draw(count=1),
        rotation_degrees=np.full(1, degrees, np.float32),
        quarter_turns=np.full(1, quarters, np.int8),
        flip_vertically=np.full(1, flip),
    )


def naive(view: NDArray[np.uint8], degrees: float) -> NDArray[np.float64]:
    """Each pixel looked up where it comes from, between four pixels; reflected at the border."""
    px, angle = len(view), np.deg2rad(degrees)
    y, x = np.mgrid[:px, :px] - (px - 1) / 2
    from_x = np.cos(angle) * x - np.sin(angle) * y + (px - 1) / 2
    from_y = np.sin(angle) * x + np.cos(angle) * y + (px - 1) / 2
    planes = [
        map_coordinates(plane.astype(float), (from_y, from_x), order=1, mode="mirror")
        for plane in view.transpose(2, 0, 1)
    ]
    return np.stack(planes, axis=2)


@pytest.mark.parametrize("degrees", [0.5, 17.0, -44.0, 90.0, 180.0])
@pytest.mark.parametrize(("channels", "bits"), [(1, 8), (3, 8), (4, 16), (6, 16)])
def test_a_rotation_looks_pixels_up_between_four(degrees: float, channels: int, bits: int) -> None:
    """To the 32nd of a pixel, as OpenCV does: within three levels of 255 in a smooth picture."""
    view = picture(channels, bits, height=40, width=40)
    found = turn(view, drawn(degrees), 0)
    assert found.dtype == view.dtype
    assert found.shape == view.shape
    off = np.abs(found - naive(view, degrees)) / (2**bits - 1) * 255
    assert off.mean() < 0.5
    assert np.percentile(off, 99) < 5


def test_no_corner_is_black() -> None:
    view = np.full((30, 30, 3), 200, np.uint8)
    assert (turn(view, drawn(45.0), 0) == 200).all()


def test_a_rotation_by_90_degrees_is_a_quarter_turn_counter_clockwise() -> None:
    view = picture(3, 8, height=31, width=31)
    assert (
        np.abs(turn(view, drawn(90.0), 0) - turn(view, drawn(quarters=1), 0).astype(int)).max() <= 1
    )
    assert np.array_equal(turn(view, drawn(quarters=1), 0)[0], view[:, -1])
    assert np.array_equal(turn(view, drawn(quarters=2), 0), view[::-1, ::-1])
    assert np.array_equal(turn(view, drawn(flip=True), 0), view[::-1])


def test_pillows_images_are_turned_alike() -> None:
    view, parameters = picture(3, 8, width=40), draw(TURNED, count=20)
    for row in range(20):
        ours = turn(view, parameters, row)
        assert np.array_equal(np.asarray(turn(Image.fromarray(view), parameters, row)), ours)


def test_turns_are_drawn_as_the_settings_say() -> None:
    parameters = draw(TURNED)
    count = len(parameters.flip)
    assert abs(parameters.flip_vertically.mean() - 0.3) < 4 * np.sqrt(0.25 / count)
    shares = np.bincount(parameters.quarter_turns, minlength=4) / count
    assert np.abs(shares - 0.25).max() < 4 * np.sqrt(0.25 / count)
    expected = np.linspace(-25, 25, count)
    assert np.abs(np.sort(parameters.rotation_degrees) - expected).max() < 100 / np.sqrt(count)


def test_what_was_drawn_before_there_were_turns_is_drawn_as_it_was() -> None:
    plain, turned = draw(count=300), draw(TURNED, count=300)
    assert not plain.flip_vertically.any()
    assert not plain.quarter_turns.any()
    assert not plain.rotation_degrees.any()
    for name in ("crop_left", "crop_width", "flip", "hue", "jitter_order", "blur_sigma_px"):
        assert np.array_equal(getattr(plain, name), getattr(turned, name))


@pytest.mark.parametrize("size", [(500, 375), (90, 40), (20, 20), (31, 500)])
def test_no_crop_is_shorter_than_its_floor_or_the_image(size: tuple[int, int]) -> None:
    free, floored = (
        draw(ViewSettings(crop_area=(0.01, 0.3), crop_min_px=px), count=500, size=size)
        for px in (0, 64)
    )
    assert free.crop_width.min() < min(64, size[0])
    for side, start, name in ((size[0], "left", "width"), (size[1], "top", "height")):
        lengths, starts = (getattr(floored, f"crop_{x}") for x in (name, start))
        assert lengths.min() == min(64, side)
        assert starts.min() >= 0
        assert (starts + lengths).max() <= side
        was = getattr(free, f"crop_{name}")
        assert np.array_equal(lengths, np.maximum(was, min(64, side)))
