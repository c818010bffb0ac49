"""Pascal VOC's boxes, read and doubted."""

import logging
from pathlib import Path

import pytest

from bt_ray.detection.voc import VOC07_12_TRAINVAL, VOC07_TEST, read_voc, read_voc_folder
from bt_ray.errors import DataError
from tests.conftest import shared_zip
from tests.detection.layouts import voc_xml, write_voc_folder

IMAGES = {
    "one": ((20, 12), [("dog", (4, 2, 12, 8)), ("cat", (0, 0, 20, 12))]),
    "two": ((9, 30), [("cat", (3, 3, 4, 5))]),
    "none": ((8, 8), []),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_voc_folder(tmp_path / "VOCdevkit" / "VOC2007", IMAGES)


def annotate(folder: Path, text: str) -> None:
    (folder / "Annotations" / "one.xml").write_text(text)


def test_boxes_are_edges(folder: Path) -> None:
    """VOC counts pixels from 1, and the last ones are part of the box."""
    layout = read_voc_folder(folder, ["train"])
    assert layout.names == ("JPEGImages/one.png", "JPEGImages/two.png", "JPEGImages/none.png")
    assert layout.files == tuple(str(folder / name) for name in layout.names)
    assert layout.annotations.classes == ("cat", "dog")
    one, two, none = layout.annotations
    assert one.boxes.tolist() == [[4, 2, 12, 8], [0, 0, 20, 12]]
    assert one.labels.tolist() == [1, 0]
    assert (two.width, two.height) == (9, 30)
    assert two.boxes.tolist() == [[3, 3, 4, 5]]
    assert (len(none), none.masks) == (0, None)


def test_years_are_read_together(tmp_path: Path) -> None:
    """Their images may have the same names."""
    devkit = tmp_path / "VOCdevkit"
    for year in ("2007", "2012"):
        write_voc_folder(devkit / f"VOC{year}", IMAGES, "trainval")
    write_voc_folder(devkit / "VOC2007", {"test": ((5, 6), [("dog", (1, 1, 2, 2))])}, "test")
    for root in (tmp_path, devkit, devkit / "VOC2012"):
        layout = read_voc(root, VOC07_12_TRAINVAL)
        assert len(layout) == 6
        assert layout.names[0] == "VOC2007/JPEGImages/one.png"
        assert layout.names[3] == "VOC2012/JPEGImages/one.png"
    test = read_voc(tmp_path, VOC07_TEST, classes=layout.annotations.classes)
    assert test.annotations[0].labels.tolist() == [1]
    assert test.annotations.classes == ("cat", "dog")


def test_images_without_objects_are_not_trained_on(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained = read_voc_folder(folder, ["train"]).with_objects()
    assert trained.names == ("JPEGImages/one.png", "JPEGImages/two.png")
    assert [len(objects) for objects in trained.annotations] == [2, 1]
    assert "1 of 3 images have no object to learn from" in caplog.text
    write_voc_folder(folder, {"none": IMAGES["none"]}, "bare")
    with pytest.raises(DataError, match="No image has an object to learn from"):
        read_voc_folder(folder, ["bare"]).with_objects()


def test_difficult_objects_are_kept_and_fractions_read(folder: Path) -> None:
    text = voc_xml(20, 12, [("dog", (4, 2, 12, 8))])
    annotate(
        folder,
        text.replace("<name>", "<difficult>1</difficult><name>").replace(
            "<xmin>5</xmin>", "<xmin>5.25</xmin>"
        ),
    )
    one = read_voc_folder(folder, ["train"]).annotations[0]
    assert one.is_difficult.tolist() == [True]
    assert one.boxes.tolist() == [[4.25, 2, 12, 8]]


def test_boxes_that_cross_an_edge_are_clipped_and_counted(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    annotate(folder, voc_xml(20, 12, [("dog", (-1, 2, 12, 8)), ("cat", (3, 4, 23, 13))]))
    one = read_voc_folder(folder, ["train"]).annotations[0]
    assert one.boxes.tolist() == [[0, 2, 12, 8], [3, 4, 20, 12]]
    assert "2 boxes cross an edge of their images, by up to 3 pixels" in caplog.text
    assert "one.xml, object 1 ('dog')" in caplog.text


def test_boxes_without_area_are_left_out_and_counted(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    annotate(folder, voc_xml(20, 12, [("dog", (4, 2, 4, 8)), ("dog", (20, 0, 22, 9))]))
    caplog.set_level(logging.WARNING)
    assert len(read_voc_folder(folder, ["train"]).annotations[0]) == 0
    assert "2 objects have boxes without area, and are left out" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (voc_xml(20, 12, [("dog", (9, 2, 5, 8))]), r"one\.xml, object 1 \('dog'\) has no box"),
        (voc_xml(20, 12, [("dog", (21, 2, 25, 8))]), r"outside of its image of 20×12 pixels"),
        (voc_xml(20, 12, [("dog", (1, -9, 5, -2))]), r"outside of its image of 20×12 pixels"),
        (voc_xml(0, 0, []), r"one\.xml says that its image has 0×0 pixels"),
        (
            voc_xml(20, 12, [("dog", (1, 1, 5, 5))]).replace("<xmax>5<", "<xmax>nan<"),
            r"has no box: 1 1 nan 5",
        ),
        (
            voc_xml(20, 12, [("dog", (1, 1, 5, 5))]).replace("<xmax>5</xmax>", ""),
            r"one\.xml is damaged .*<bndbox><xmax> is missing",
        ),
        (voc_xml(20, 12, [("", (1, 1, 5, 5))]), r"one\.xml is damaged .*<name> is missing"),
        (voc_xml(20, 12, [])[:40], r"one\.xml is damaged .*ParseError"),
        ("", r"one\.xml is damaged"),
    ],
)
def test_what_cannot_be_is_refused_by_name(folder: Path, text: str, message: str) -> None:
    annotate(folder, text)
    with pytest.raises(DataError, match=message):
        read_voc_folder(folder, ["train"])


def test_unknown_classes_are_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"one\.xml, object 1 .* class 'dog', which is none of cat"):
        read_voc_folder(folder, ["train"], classes=("cat", "horse"))


def test_what_is_missing_or_named_twice_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no list with ImageSets/Main/val\.txt"):
        read_voc_folder(folder, ["val"])
    with pytest.raises(DataError, match=r"no VOCdevkit/VOC2012 with ImageSets/Main/trainval\.txt"):
        read_voc(tmp_path, VOC07_12_TRAINVAL[1:])
    with pytest.raises(DataError, match=r"'JPEGImages/one\.png' is named 2 times"):
        read_voc_folder(folder, ["train", "train"])
    names = folder / "ImageSets" / "Main" / "val.txt"
    names.write_text("\n")
    with pytest.raises(DataError, match=r"val\.txt in .* names no image"):
        read_voc_folder(folder, ["val"])
    names.write_text("one\nthree\n")
    with pytest.raises(DataError, match=r"1 of 2 images .*val\.txt.* missing, such as .*three"):
        read_voc_folder(folder, ["val"])
    (folder / "Annotations" / "two.xml").unlink()
    with pytest.raises(DataError, match=r"annotation .*two\.xml is missing"):
        read_voc_folder(folder, ["train"])
    (folder / "JPEGImages" / "one.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"has one\.jpg and one\.png"):
        read_voc_folder(folder, ["train"])


def test_blood_cells(tmp_path: Path) -> None:
    """A real data set, laid out by others."""
    shared_zip("bccd-voc.zip").extractall(tmp_path)
    train, test = (read_voc(tmp_path, [("2007", split)]) for split in ("trainval", "test"))
    assert (len(train), len(test)) == (292, 72)
    assert train.annotations.classes == ("Platelets", "RBC", "WBC")
    boxes = [objects.boxes for layout in (train, test) for objects in layout.annotations]
    assert sum(map(len, boxes)) == 4888, "as many as <object> stands in the files"
    assert all((box[:, :2] < box[:, 2:]).all() and box.min() >= 0 for box in boxes if len(box))
