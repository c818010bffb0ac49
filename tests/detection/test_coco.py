"""COCO's instances, read and doubted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bt_ray.detection.coco import coco_place, read_coco
from bt_ray.detection.masks import decode_mask, encode_mask
from bt_ray.errors import DataError
from tests.detection.layouts import coco_tree, write_coco

Tree = dict[str, Any]


def test_boxes_are_edges_and_categories_count_from_0(tmp_path: Path) -> None:
    file, images = write_coco(tmp_path, coco_tree())
    layout = read_coco(file, images, masks=False)
    assert layout.names == ("a.png", "sub/b.png", "c.png")
    assert layout.files == tuple(str(images / name) for name in layout.names)
    assert layout.annotations.classes == ("car", "zebra"), "in the order of their ids"
    a, b, c = layout.annotations
    assert (a.width, a.height) == (20, 12)
    assert a.boxes.tolist() == [[4, 2, 12, 8], [0.5, 0, 3.5, 2.25]]
    assert a.labels.tolist() == [1, 0]
    assert a.is_crowd.tolist() == [False, True]
    assert b.boxes.tolist() == [[1, 3, 6, 7]]
    assert (len(c), a.masks) == (0, None)


def test_masks_of_each_kind(tmp_path: Path) -> None:
    """A polygon, run lengths as numbers and compressed."""
    tree = coco_tree()
    drawn = np.zeros((12, 20), np.uint8)
    drawn[2:8, 4:12] = 1
    tree["annotations"][2]["segmentation"]["counts"] = encode_mask(drawn).decode()
    layout = read_coco(*write_coco(tmp_path, tree), masks=True)
    a, b, _ = layout.annotations
    assert a.masks is not None
    assert b.masks is not None
    for mask in a.masks:
        np.testing.assert_array_equal(decode_mask(mask, 12, 20), drawn)
    column = np.zeros((16, 10), np.uint8)
    column[3:7, 1] = 1
    np.testing.assert_array_equal(decode_mask(b.masks[0], 16, 10), column)
    assert layout.annotations.has_masks


def test_objects_may_come_before_the_images(tmp_path: Path) -> None:
    tree = coco_tree()
    usual = read_coco(*write_coco(tmp_path, tree), masks=True).annotations
    turned = {name: tree[name] for name in reversed(tree)}
    early = read_coco(*write_coco(tmp_path, turned), masks=True).annotations
    for got, expected in zip(early, usual, strict=True):
        np.testing.assert_array_equal(got.boxes, expected.boxes)
        np.testing.assert_array_equal(got.labels, expected.labels)
        assert got.masks == expected.masks


def test_images_with_crowds_alone_are_not_trained_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tree = coco_tree()
    del tree["annotations"][0]
    layout = read_coco(*write_coco(tmp_path, tree), masks=False)
    assert [len(objects) for objects in layout.annotations] == [1, 1, 0]
    assert layout.with_objects().names == ("sub/b.png",)
    assert "2 of 3 images have no object to learn from" in caplog.text


def test_classes_of_training_are_those_of_the_test(tmp_path: Path) -> None:
    place = write_coco(tmp_path, coco_tree())
    layout = read_coco(*place, masks=False, classes=("zebra", "horse", "car"))
    assert layout.annotations.classes == ("zebra", "horse", "car")
    assert layout.annotations[0].labels.tolist() == [0, 2]
    with pytest.raises(DataError, match=r"object 2 in sub/b\.png .* class 'car', which is none of"):
        read_coco(*place, masks=False, classes=("zebra",))


def test_what_crosses_an_edge_is_clipped_and_what_has_no_area_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tree = coco_tree()
    boxes = [[-0.5, 0, 3, 12.25], [1, 3, 5, 0], [19.5, 11.5, 0.75, 0.5]]
    for entry, box in zip(tree["annotations"], boxes, strict=True):
        entry["bbox"] = box
    a, b, _ = read_coco(*write_coco(tmp_path, tree), masks=True).annotations
    assert a.boxes.tolist() == [[0, 0, 2.5, 12], [19.5, 11.5, 20, 12]]
    assert len(b) == 0
    assert a.masks is not None
    assert len(a.masks) == 2, "and masks stay with their boxes"
    assert "2 boxes cross an edge of their images, by up to 0.5 pixels" in caplog.text
    assert "1 objects have boxes without area" in caplog.text


def test_polygons_of_two_points_are_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tree = coco_tree()
    tree["annotations"][0]["segmentation"].append([1, 1, 2, 2])
    tree["annotations"][2]["segmentation"] = [[1, 1, 2, 2], []]
    a, _, _ = read_coco(*write_coco(tmp_path, tree), masks=True).annotations
    assert a.masks is not None
    assert len(a.masks) == len(a) == 1
    assert decode_mask(a.masks[0], 12, 20).sum() == 48
    assert "1 objects have no polygon of three points, and are left out" in caplog.text


def first(name: str, /, **changes: Any) -> Callable[[Tree], None]:
    return lambda tree: tree[name][0].update(changes)


def again(name: str, /, **changes: Any) -> Callable[[Tree], None]:
    return lambda tree: tree[name].append(tree[name][0] | changes)


def without(name: str, key: str) -> Callable[[Tree], None]:
    return lambda tree: tree[name][0].pop(key)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (first("annotations", bbox=[4, 2, -1, 6]), r"object 1 in a\.png has no box: 4 2 3 8"),
        (first("annotations", bbox=[4, 2, float("nan"), 6]), r"object 1 in a\.png has no box"),
        (first("annotations", bbox=[25, 2, 3, 6]), r"a\.png has the box .* outside .* 20×12"),
        (first("annotations", bbox=[4, 2, 3]), r"object number 0 \(from 0\) is damaged"),
        (first("annotations", bbox="4 2"), r"object number 0 \(from 0\) is damaged"),
        (without("annotations", "bbox"), r"object number 0 .* is damaged: .*KeyError: 'bbox'"),
        (without("annotations", "category_id"), r"is damaged: .*KeyError: 'category_id'"),
        (first("annotations", image_id=99), r"object 1 is in the image 99, which is none"),
        (first("annotations", category_id=5), r"a\.png has the category 5, which is none"),
        (without("images", "height"), r"image number 0 .* is damaged: .*KeyError: 'height'"),
        (first("images", width=0), r"says that 'a\.png' has 0×12 pixels"),
        (first("images", file_name="../a.png"), r"names the image '\.\./a\.png', which is no path"),
        (first("images", file_name="d.png"), r"1 of 3 images .* missing, such as .*d\.png"),
        (again("images"), "two images of id 7"),
        (again("images", id=8), r"The image 'a\.png' is named 2 times"),
        (again("categories", id=4), "two categories of id 4 or of name 'zebra'"),
        (again("categories", name="x"), "two categories of id 90"),
        (lambda tree: tree["annotations"].append(3), "object number 3 .* is damaged"),
        (lambda tree: tree.update(images={"a": 1}), r"'\[' was expected"),
        (lambda tree: tree.update(images=[], annotations=[]), "name no image"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    change: Callable[[Tree], None], message: str, tmp_path: Path
) -> None:
    tree = coco_tree()
    change(tree)
    with pytest.raises(DataError, match=message):
        read_coco(*write_coco(tmp_path, tree), masks=False)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "has no mask: its segmentation is 'None'; add it, or read the boxes alone"),
        ([], "has no mask"),
        ({"counts": [1]}, "has no mask"),
        ([[1, 2, 3, 4, 5]], "has a polygon that is none of its image of 20×12"),
        ([["a", 1, 2, 3, 4, 5]], "has a polygon that is none"),
        ([3, 4, 5, 6], "has a polygon that is none"),
        ([[1, 1, 2, 2, 1e9, 3]], "has a polygon that is none"),
        ([[1, 1, 2, 2, float("nan"), 3]], "has a polygon that is none"),
        ({"size": [20, 12], "counts": [240]}, r"size \[20, 12\], and .* height 12 and width 20"),
        ({"size": [12, 20], "counts": [239]}, "run lengths do not fill its image"),
        ({"size": [12, 20], "counts": [250, -10]}, "run lengths do not fill"),
        ({"size": [12, 20], "counts": ["a"]}, "run lengths do not fill"),
        ({"size": [12, 20], "counts": [0.5, 239.5]}, "run lengths do not fill"),
        ({"size": [12, 20], "counts": []}, "run lengths do not fill"),
        ({"size": [12, 20], "counts": "00"}, "run lengths do not fill"),
        ({"size": [12, 20], "counts": "P"}, "run lengths do not fill"),
        ({"size": [12, 20], "counts": "é"}, "run lengths do not fill"),
        ({"size": [12, 20], "counts": 3}, "run lengths do not fill"),
    ],
)
def test_masks_that_cannot_be_are_refused_by_name(
    segmentation: Any, message: str, tmp_path: Path
) -> None:
    tree = coco_tree()
    tree["annotations"][0]["segmentation"] = segmentation
    place = write_coco(tmp_path, tree)
    with pytest.raises(DataError, match=rf"object 1 in a\.png .*{message}|{message}"):
        read_coco(*place, masks=True)
    assert len(read_coco(*place, masks=False)) == 3, "boxes alone are whole"


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    file, images = write_coco(tmp_path, coco_tree())
    whole = file.read_text()
    for length in range(0, len(whole) - 1, 97):
        file.write_text(whole[:length])
        with pytest.raises(DataError, match=r"instances\.json"):
            read_coco(file, images, masks=False)
    file.write_text(json.dumps([{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]))
    with pytest.raises(DataError, match="holds no annotations as COCO has them"):
        read_coco(file, images, masks=False)


def test_the_standard_place(tmp_path: Path) -> None:
    file, images = coco_place(tmp_path, "val2017")
    assert file == tmp_path / "annotations" / "instances_val2017.json"
    assert images == tmp_path / "val2017"
    with pytest.raises(DataError, match=r"instances_val2017\.json cannot be read"):
        read_coco(file, images, masks=True)
