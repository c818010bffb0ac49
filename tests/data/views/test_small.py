"""Smaller views: how they are drawn, and that a jigsaw's patches are those of the paper's grid."""

from dataclasses import fields, replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bt_ray.config import ViewSettings
from bt_ray.data.views import fast
from bt_ray.data.views.draw import ViewParameters
from bt_ray.data.views.small import draw_small
from tests.data.views.test_views import draw

COUNT = 5000
CROPS = ViewSettings(small_count=4, small_px=12)
JIGSAW = replace(CROPS, small_count=9, small_kind="jigsaw", small_crop_area=(0.6, 1.0))
TURNING = {"vertical_flip_probability": 0.5, "quarter_turns": True, "rotation_degrees": 20.0}


def drawn(
    settings: ViewSettings, *, count: int = COUNT, epoch: int = 0, first: int = 0,
    size: tuple[int, int] = (500, 375),
) -> list[ViewParameters]:  # fmt: skip
    return draw_small(
        settings, seed=0, epoch=epoch, samples=np.arange(first, first + count),
        widths=np.full(count, size[0]), heights=np.full(count, size[1]),
    )  # fmt: skip


def test_there_are_none_unless_they_are_wanted() -> None:
    assert drawn(ViewSettings()) == []
    assert drawn(replace(JIGSAW, small_count=0)) == []


@pytest.mark.parametrize("settings", [CROPS, JIGSAW], ids=["crops", "jigsaw"])
def test_they_depend_on_epoch_sample_and_view_alone(settings: ViewSettings) -> None:
    whole, part = drawn(settings, count=100), drawn(settings, count=10, first=50)
    later = drawn(settings, count=100, epoch=1)
    for one, same, other in zip(whole, part, later, strict=True):
        for field in fields(ViewParameters):
            values = getattr(one, field.name)
            assert np.array_equal(values[50:60], getattr(same, field.name)), field.name
        assert not np.array_equal(one.hue, other.hue)
        assert not np.array_equal(one.crop_left, other.crop_left)
    assert len({view.hue.tobytes() for view in whole}) == len(whole)
    assert len({view.crop_left.tobytes() for view in whole}) == len(whole)


def test_the_two_views_are_drawn_as_without_them() -> None:
    for view in (0, 1):
        alone, beside = draw(count=50, view=view), draw(CROPS, count=50, view=view)
        for field in fields(ViewParameters):
            assert np.array_equal(getattr(alone, field.name), getattr(beside, field.name))


def test_crops_have_the_area_of_the_setting() -> None:
    """Between its bounds, to whole pixels, evenly, but for some whose shape does not fit."""
    for view in drawn(CROPS):
        shares = np.sort(view.crop_width * view.crop_height / (500 * 375))
        assert shares[0] > 0.049
        assert shares[-1] < 0.141
        assert np.abs(shares - np.linspace(0.05, 0.14, COUNT)).max() < 0.003


@pytest.mark.parametrize("settings", [CROPS, JIGSAW], ids=["crops", "jigsaw"])
def test_blur_and_solarization_are_in_turn_as_likely_as_of_the_two_views(
    settings: ViewSettings,
) -> None:
    for number, view in enumerate(drawn(settings)):
        is_second = number % 2
        for found, expected in (
            (view.blur_sigma_px > 0, (1.0, 0.1)[is_second]),
            (view.solarize, (0.0, 0.2)[is_second]),
            (view.jitter, 0.8),
        ):
            assert abs(np.mean(found) - expected) < 4 * np.sqrt(0.25 / COUNT)


@pytest.mark.parametrize("size", [(500, 375), (32, 32), (2, 2), (1, 1), (3, 1000), (7, 5)])
@pytest.mark.parametrize("settings", [CROPS, JIGSAW], ids=["crops", "jigsaw"])
def test_all_lie_within_the_image_and_have_a_pixel(
    settings: ViewSettings, size: tuple[int, int]
) -> None:
    for view in drawn(settings, count=500, size=size):
        assert view.crop_left.min() >= 0
        assert view.crop_top.min() >= 0
        assert (view.crop_left + view.crop_width).max() <= size[0]
        assert (view.crop_top + view.crop_height).max() <= size[1]
        assert view.crop_width.min() >= 1
        assert view.crop_height.min() >= 1


def cells_of(views: list[ViewParameters], whole: ViewParameters) -> NDArray[np.int64]:
    """Which of the nine cells each patch has its middle in, (n, 9), row after row."""
    columns = [
        (view.crop_left + view.crop_width / 2 - whole.crop_left) * 3 // whole.crop_width
        for view in views
    ]
    rows = [
        (view.crop_top + view.crop_height / 2 - whole.crop_top) * 3 // whole.crop_height
        for view in views
    ]
    return (np.stack(rows, axis=1) * 3 + np.stack(columns, axis=1)).astype(np.int64)


def test_a_patch_of_each_cell_of_one_crop_in_any_order() -> None:
    whole, patches = draw(JIGSAW, count=COUNT, view=2), drawn(JIGSAW)
    area = whole.crop_width * whole.crop_height / (500 * 375)
    assert area.min() > 0.59
    cells = cells_of(patches, whole)
    assert np.array_equal(np.sort(cells, axis=1), np.tile(np.arange(9), (COUNT, 1)))
    for place in range(9):
        counts = np.bincount(cells[:, place], minlength=9)
        assert np.abs(counts - COUNT / 9).max() < 5 * np.sqrt(COUNT / 9)
    assert len(np.unique(cells, axis=0)) > 0.98 * COUNT, "of 9! orders hardly one comes twice"


def test_a_crop_of_255_pixels_has_the_papers_cells_and_patches() -> None:
    """Cells of 85 pixels, patches of 64; each of the 22 places as likely, in its cell."""
    sure = replace(JIGSAW, small_crop_area=(1.0, 1.0))
    views = drawn(sure, size=(255, 255))
    for view in views:
        assert (view.crop_width == 64).all()
        assert (view.crop_height == 64).all()
        for begin in (view.crop_left, view.crop_top):
            counts = np.bincount(begin % 85, minlength=22)
            assert len(counts) == 22
            assert np.abs(counts - COUNT / 22).max() < 5 * np.sqrt(COUNT / 22)


def test_flips_and_turns_are_one_for_all_patches_and_photometry_is_each_ones_own() -> None:
    likely = {"blur_probability": (0.5, 0.5), "solarize_probability": (0.5, 0.5)}
    first, *others = drawn(replace(JIGSAW, **TURNING, **likely), count=200)  # type: ignore[arg-type]
    shared = {"flip", "flip_vertically", "quarter_turns", "rotation_degrees"}
    boxes = {"crop_left", "crop_top", "crop_width", "crop_height"}
    assert 0 < first.flip.mean() < 1
    for view in others:
        for field in fields(ViewParameters):
            one, other = getattr(first, field.name), getattr(view, field.name)
            if field.name not in boxes:
                assert np.array_equal(one, other) == (field.name in shared), field.name


@pytest.mark.parametrize("size", [(255, 255), (600, 380), (64, 91)])
def test_patches_are_cut_from_the_resized_grid(size: tuple[int, int]) -> None:
    """As in the paper: the crop resized to 255 × 255, and flipped; then 64 × 64 of each cell.

    A ramp from left to right and from top to bottom shows where a patch was cut: to a pixel of the
    image and one of the grid, and to the rounding of levels.
    """
    width, height = size
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    picture = np.stack([x, y, x], axis=2).astype(np.uint8)
    off = 1.5 * 255 / min(size) + 2
    whole, patches = draw(JIGSAW, count=8, view=2, size=size), drawn(JIGSAW, count=8, size=size)
    cells = cells_of(patches, whole)
    for row in range(8):
        box = (whole.crop_left[row], whole.crop_top[row])
        end = (box[0] + whole.crop_width[row], box[1] + whole.crop_height[row])
        crop = Image.fromarray(picture[box[1] : end[1], box[0] : end[0]])
        grid = np.asarray(crop.resize((255, 255), Image.Resampling.BICUBIC)).astype(np.float64)
        for number, patch in enumerate(patches):
            left = round((patch.crop_left[row] - box[0]) * 255 / whole.crop_width[row])
            top = round((patch.crop_top[row] - box[1]) * 255 / whole.crop_height[row])
            assert abs(top - cells[row, number] // 3 * 85 - 10.5) <= 12
            assert abs(left - cells[row, number] % 3 * 85 - 10.5) <= 12
            expected = grid[top : top + 64, left : left + 64]
            found = fast.crop(picture, patch, row, 64).astype(np.float64)
            found = found[:, ::-1] if whole.flip[row] else found
            away = np.abs(found[: len(expected), : expected.shape[1]] - expected)
            assert away.max() <= off
