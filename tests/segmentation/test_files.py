"""Masks and layouts: what is read, and what is refused with which sentence."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bt_ray.config import DataSettings
from bt_ray.errors import DataError
from bt_ray.segmentation.layouts import read_folders, read_voc
from bt_ray.segmentation.masks import read_mask
from bt_ray.segmentation.pairs import (
    check_pairs,
    count_classes,
    read_pairs,
    resize_levels,
    resize_mask,
)
from tests.segmentation.files import draw, save_mask, write_folders, write_voc

DATA = DataSettings(train="")


@pytest.mark.parametrize("mode", ["P", "L"])
def test_palettes_and_greys_hold_the_same_indices(mode: str, tmp_path: Path) -> None:
    mask = draw(0)[1]
    save_mask(mask, tmp_path / "mask.png", mode)
    with Image.open(tmp_path / "mask.png") as image:
        assert image.mode == mode
    found = read_mask(tmp_path / "mask.png")
    assert found.dtype == np.uint8
    assert np.array_equal(found, mask)


@pytest.mark.parametrize("mode", ["RGB", "I;16"])
def test_what_holds_no_indices_is_refused(mode: str, tmp_path: Path) -> None:
    save_mask(draw(0)[1], tmp_path / "mask.png", mode)
    with pytest.raises(DataError, match="must have one index a pixel: a PNG with a palette"):
        read_mask(tmp_path / "mask.png")


def test_a_damaged_mask_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mask.png"
    save_mask(draw(0)[1], file)
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(DataError, match=r"mask\.png cannot be decoded"):
        read_mask(file)


def test_voc(tmp_path: Path) -> None:
    folder = write_voc(tmp_path, {"train": range(3), "val": range(3, 5)})
    for root in (tmp_path, tmp_path / "VOCdevkit", folder):
        found = read_voc(root, "2012", "val")
        assert [file.name for file in found.images] == ["000003.jpg", "000004.jpg"]
        assert [file.name for file in found.masks] == ["000003.png", "000004.png"]
    with pytest.raises(DataError, match=r"holds no VOCdevkit/VOC2012/.*/test\.txt"):
        read_voc(tmp_path, "2012", "test")
    (folder / "SegmentationClass" / "000004.png").unlink()
    with pytest.raises(DataError, match=r"1 of 2 masks that .*val\.txt names are missing"):
        read_voc(tmp_path, "2012", "val")


def test_folders(tmp_path: Path) -> None:
    images, masks = write_folders(tmp_path, range(3))
    (images / "notes.txt").write_text("no image")
    found = read_folders(images, masks)
    assert [file.name for file in found.images] == ["0.png", "1.png", "2.png"]
    (masks / "1.png").unlink()
    with pytest.raises(DataError, match=r"1 of 3 images in .* have no mask; there is no .*1\.png"):
        read_folders(images, masks)
    Image.new("RGB", (4, 4)).save(images / "2.jpg")
    with pytest.raises(DataError, match="several images '2'"):
        read_folders(images, masks)
    with pytest.raises(DataError, match="There is no image in"):
        read_folders(masks.parent, masks)
    with pytest.raises(DataError, match="absent cannot be read"):
        read_folders(tmp_path / "absent", masks)


def test_masks_of_another_size_or_of_unknown_classes_are_refused(tmp_path: Path) -> None:
    images, masks = write_folders(tmp_path, range(3))
    found = read_folders(images, masks)
    check_pairs(found, 3, DATA)
    assert count_classes(found) == 3
    with pytest.raises(DataError, match=r"has the index 2, and there are 2 classes, 0 to 1"):
        check_pairs(found, 2, DATA)
    save_mask(draw(1)[1].T, masks / "1.png")
    with pytest.raises(DataError, match=r"1\.png has 40×48 pixels, and its image .* 48×40"):
        check_pairs(found, 3, DATA)


def test_masks_without_any_class_are_refused(tmp_path: Path) -> None:
    images, masks = write_folders(tmp_path, range(2))
    for seed in range(2):
        save_mask(np.full((40, 48), 255, np.uint8), masks / f"{seed}.png")
    with pytest.raises(DataError, match="All pixels of all 2 masks"):
        check_pairs(read_folders(images, masks), 3, DATA)


def test_images_become_squares_and_masks_keep_their_size(tmp_path: Path) -> None:
    images, masks = write_folders(tmp_path, range(20))
    found = [pair for some in read_pairs(read_folders(images, masks), 32, DATA) for pair in some]
    assert len(found) == 20
    names = sorted(range(20), key=str)
    for pair, seed in zip(found, names, strict=True):
        image, mask = draw(seed)
        assert pair.levels.shape == (3, 32, 32)
        assert np.array_equal(pair.mask, mask)
        assert np.array_equal(pair.levels, resize_levels(image, 32).transpose(2, 0, 1))


def test_a_masks_pixel_is_that_in_its_middle() -> None:
    """Against what stands there, for a size that is and one that is no divisor."""
    mask = np.arange(12 * 9, dtype=np.uint8).reshape(12, 9)
    for px in (3, 5, 12, 20):
        rows = np.floor((np.arange(px) + 0.5) * 12 / px).astype(int)
        columns = np.floor((np.arange(px) + 0.5) * 9 / px).astype(int)
        assert np.array_equal(resize_mask(mask, px), mask[np.ix_(rows, columns)])


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_levels_of_any_channels_are_resized(channels: int) -> None:
    levels = np.random.default_rng(0).integers(0, 65535, (12, 16, channels)).astype(np.uint16)
    smaller = resize_levels(levels, 4)
    expected = levels.reshape(4, 3, 4, 4, channels).astype(np.float64).mean((1, 3))
    assert smaller.dtype == np.uint16
    assert np.abs(smaller - expected).max() <= 1
    assert resize_levels(levels, 20).shape == (20, 20, channels)
