"""Objects of images come back as they were put in, whatever their order and number."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from bt_ray.detection.annotations import Annotations, Objects, ObjectTable
from bt_ray.errors import DataError


def some(seed: int, count: int, *, masks: bool = False) -> Objects:
    random = np.random.default_rng(seed)
    return Objects(
        height=30 + seed,
        width=40 + seed,
        boxes=random.random((count, 4), np.float32) * 30,
        labels=random.integers(0, 3, count),
        is_crowd=random.random(count) < 0.5,
        is_difficult=random.random(count) < 0.5,
        masks=tuple(random.bytes(5) for _ in range(count)) if masks else None,
    )


def assert_same(got: Objects, expected: Objects) -> None:
    assert (got.height, got.width) == (expected.height, expected.width)
    for name in ("boxes", "labels", "is_crowd", "is_difficult"):
        value = getattr(got, name)
        np.testing.assert_array_equal(value, getattr(expected, name))
        assert value.dtype == getattr(expected, name).dtype
    assert got.boxes.shape == (len(expected), 4)
    assert (got.masks or ()) == (expected.masks or ())


IMAGES = [some(1, 3), some(2, 0), some(3, 1), some(4, 7), some(5, 0)]
MASKED = [some(1, 3, masks=True), some(2, 0), some(3, 2, masks=True)]
CLASSES = ("cat", "a\nstrange one", "Ærfugl")


@pytest.mark.parametrize("images", [IMAGES, MASKED, [some(1, 0)]])
def test_what_is_written_is_read(images: list[Objects], tmp_path: Path) -> None:
    file = tmp_path / "train.arrow"
    made = Annotations.of(images, CLASSES)
    made.write(file)
    for annotations in (made, Annotations.open(file)):
        assert annotations.classes == CLASSES
        assert len(annotations) == len(images)
        for got, expected in zip(annotations, images, strict=True):
            assert_same(got, expected)
        assert annotations.heights.tolist() == [image.height for image in images]
        assert annotations.widths.tolist() == [image.width for image in images]
        learnt = [int((~image.is_crowd).sum()) for image in images]
        assert annotations.num_learnt.tolist() == learnt
        with pytest.raises(IndexError):
            annotations[len(images)]


def test_objects_in_any_order_go_to_their_images() -> None:
    owners = np.repeat(np.arange(len(IMAGES)), [len(image) for image in IMAGES])
    order = np.random.default_rng(0).permutation(len(owners))
    columns = {
        name: np.concatenate([getattr(image, name) for image in IMAGES])[order]
        for name in ("boxes", "labels", "is_crowd", "is_difficult")
    }
    table = ObjectTable(
        heights=[image.height for image in IMAGES],
        widths=[image.width for image in IMAGES],
        images=owners[order],
        masks=[bytes([number]) for number in order],
        **columns,
    )
    for row, got in enumerate(Annotations.from_table(table, CLASSES)):
        here = [place for place, owner in enumerate(owners[order]) if owner == row]
        np.testing.assert_array_equal(got.boxes, table.boxes[here])
        assert got.labels.tolist() == [table.labels[place] for place in here]
        assert got.masks == tuple(bytes([order[place]]) for place in here)


def test_some_are_taken_in_an_order() -> None:
    rows = [3, 0, 3, 1]
    taken = Annotations.of(IMAGES, CLASSES).take(rows)
    for got, row in zip(taken, rows, strict=True):
        assert_same(got, IMAGES[row])
    assert taken.num_learnt.tolist() == [int((~IMAGES[row].is_crowd).sum()) for row in rows]


def test_masks_are_there_or_not() -> None:
    assert Annotations.of(MASKED, CLASSES).has_masks
    assert not Annotations.of(IMAGES, CLASSES).has_masks


def test_a_file_is_mapped_and_not_read(tmp_path: Path) -> None:
    file = tmp_path / "train.arrow"
    Annotations.of(IMAGES * 2000, CLASSES).write(file)
    before = pa.total_allocated_bytes()
    annotations = Annotations.open(file)
    assert_same(annotations[9998], IMAGES[3])
    assert pa.total_allocated_bytes() - before < file.stat().st_size / 20


@pytest.mark.parametrize("content", [b"", b"no arrow", None])
def test_what_is_no_annotation_is_refused(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "train.arrow"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError, match=r"train\.arrow holds no annotations of objects"):
        Annotations.open(file)


def test_a_table_of_something_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "train.arrow"
    table = pa.table({"a": [1]})
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(DataError, match="holds no annotations"):
        Annotations.open(file)
