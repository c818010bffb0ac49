"""Shards of a layout, and annotations in the order of their rows."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bt_ray.config import Pixels
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.views.raster import decode_raster
from bt_ray.detection.annotations import Annotations
from bt_ray.detection.coco import read_coco
from bt_ray.detection.layouts import Layout
from bt_ray.detection.prepare import prepare_layout
from bt_ray.detection.voc import VOC07_12_TRAINVAL, read_voc, read_voc_folder
from bt_ray.errors import DataError
from tests.detection.layouts import COLOUR, Box, coco_tree, write_coco, write_voc_folder

Painted = tuple[tuple[int, int], list[tuple[str, Box]]]


def images(count: int, seed: int = 0) -> dict[str, Painted]:
    """Images of sizes of their own, each with a rectangle in a place of its own."""
    random = np.random.default_rng(seed)
    found: dict[str, Painted] = {}
    for number in range(count):
        width, height = random.integers(20, 50, 2).tolist()
        left, top = random.integers(0, 10, 2).tolist()
        box = (left, top, left + 3 + number % 5, top + 2 + number % 7)
        found[f"{number:04d}"] = ((width, height), [("cat" if number % 2 else "dog", box)])
    return found


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return read_voc_folder(write_voc_folder(tmp_path / "voc", images(40)), ["train"])


def painted_box(encoded: bytes, pixels: Pixels | None = None) -> list[int]:
    """Where the rectangle is in an image."""
    levels = decode_raster(encoded, pixels or Pixels())
    inside = (levels == COLOUR).all(axis=2)
    rows, columns = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def assert_aligned(root: str, annotations: Annotations, pixels: Pixels | None = None) -> None:
    shards = ShardSet.open(root)
    assert shards.manifest.num_rows == len(annotations)
    encoded = shards.read_columns(["image"])["image"].to_pylist()
    for image, objects in zip(encoded, annotations, strict=True):
        assert objects.boxes.tolist()[0] == painted_box(image, pixels)


def test_each_row_has_the_objects_of_its_image(layout: Layout, tmp_path: Path) -> None:
    root, annotations = prepare_layout(layout, str(tmp_path), rows_per_row_group=8)
    assert_aligned(root, annotations)
    names = ShardSet.open(root).read_columns(["sample_id"])["sample_id"].to_pylist()
    assert sorted(names) == sorted(layout.names)
    assert names != list(layout.names), "the shards' order is their own"


def test_what_is_there_is_not_written_again(layout: Layout, tmp_path: Path) -> None:
    root, first = prepare_layout(layout, str(tmp_path), rows_per_row_group=8)
    before = {file: file.stat().st_mtime_ns for file in Path(root).iterdir()}
    again, second = prepare_layout(layout, str(tmp_path), rows_per_row_group=8)
    assert again == root
    assert {file: file.stat().st_mtime_ns for file in Path(root).iterdir()} == before
    assert [o.boxes.tolist() for o in first] == [o.boxes.tolist() for o in second]
    some, part = prepare_layout(layout.take(range(5, 25)), str(tmp_path), rows_per_row_group=8)
    assert some != root
    assert_aligned(some, part)


def test_years_with_the_same_names(tmp_path: Path) -> None:
    for number, year in enumerate(("2007", "2012")):
        folder = tmp_path / "VOCdevkit" / f"VOC{year}"
        write_voc_folder(folder, images(6, seed=number), "trainval")
    layout = read_voc(tmp_path, VOC07_12_TRAINVAL)
    root, annotations = prepare_layout(layout, str(tmp_path), rows_per_row_group=4)
    assert len(annotations) == 12
    assert_aligned(root, annotations)


def test_masks_go_along(tmp_path: Path) -> None:
    layout = read_coco(*write_coco(tmp_path, coco_tree()), masks=True)
    root, annotations = prepare_layout(layout, str(tmp_path), rows_per_row_group=4)
    names = ShardSet.open(root).read_columns(["sample_id"])["sample_id"].to_pylist()
    assert sorted(names) == ["a.png", "c.png", "sub/b.png"]
    for name, objects in zip(names, annotations, strict=True):
        assert objects.masks == layout.annotations[layout.names.index(name)].masks


def test_broken_images_stop_or_are_left_out(
    layout: Layout, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = [layout.names[row] for row in (3, 17)]
    for row in (3, 17):
        Path(layout.files[row]).write_bytes(b"no image")
    with pytest.raises(
        DataError, match=r"2 of 40 images .* are broken.*: --on-bad-image skip"
    ) as told:
        prepare_layout(layout, str(tmp_path), rows_per_row_group=8)
    assert all(name in str(told.value) for name in broken)
    root, annotations = prepare_layout(
        layout, str(tmp_path), rows_per_row_group=8, on_bad_image="skip"
    )
    assert len(annotations) == 38
    assert_aligned(root, annotations)
    assert "2 of 40 images cannot be decoded, and are left out" in caplog.text
    listed = (Path(root) / "rejected.jsonl").read_text()
    assert all(name in listed for name in broken)


def test_sizes_that_differ_are_refused(layout: Layout, tmp_path: Path) -> None:
    row = 7
    Image.new("RGB", (13, 11)).save(layout.files[row])
    objects = layout.annotations[row]
    with pytest.raises(DataError, match=r"1 of 40 images .*0007\.png: 13×11 pixels, and") as told:
        prepare_layout(layout, str(tmp_path), rows_per_row_group=8)
    assert f"says {objects.width}×{objects.height}. Boxes would not fit" in str(told.value)


def test_images_that_lie_on_their_side(tmp_path: Path) -> None:
    """The annotation is of the image as the camera's note turns it."""
    folder = write_voc_folder(tmp_path / "voc", {"one": ((30, 20), [("dog", (4, 2, 12, 8))])})
    file = folder / "JPEGImages" / "one.png"
    upright = Image.open(io.BytesIO(file.read_bytes()))
    notes = Image.Exif()
    notes[0x0112] = 6  # to be turned by 90 degrees, clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(file, exif=notes)
    layout = read_voc_folder(folder, ["train"])
    with pytest.raises(DataError, match=r"20×30 pixels, .* says 30×20; it seems to lie on its s"):
        prepare_layout(layout, str(tmp_path), rows_per_row_group=4)
    pixels = replace(Pixels(), orientation="exif")
    root, annotations = prepare_layout(layout, str(tmp_path), rows_per_row_group=4, pixels=pixels)
    assert_aligned(root, annotations, pixels)
