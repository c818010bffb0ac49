"""Pascal VOC's layout, read and doubted."""

from pathlib import Path

import pytest

from bt_ray.data.sources.voc import read_voc
from bt_ray.errors import DataError
from tests.conftest import shared_zip
from tests.data.voc import annotation, write_voc

BOX = (1, 1, 5, 6)
IMAGES = {
    "a": [("dog", BOX, False), ("cat", BOX, True)],
    "b": [("cat", BOX, True), ("cat", BOX, False)],
    "c": [],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_voc(tmp_path, {"trainval": IMAGES, "test": {"d": [("dog", BOX, False)]}})


@pytest.mark.parametrize("above", [0, 1, 2])
def test_an_image_has_what_is_not_only_difficult(folder: Path, above: int) -> None:
    """By the folder that VOC was unpacked in, VOCdevkit, or VOC2007 itself."""
    found = read_voc([folder, *folder.parents][above], "trainval")
    assert found.classes == ("cat", "dog")
    assert found.targets.tolist() == [[0, 1], [1, -1], [-1, -1]]
    assert [file.name for file in found.files] == ["a.jpg", "b.jpg", "c.jpg"]
    assert len(found) == 3


@pytest.mark.parametrize(
    "box", [(1, 1, 13, 6), (1, 1, 5, 10), (-1, 1, 5, 6), (1, -2, 5, 6), (5, 1, 1, 6)]
)
def test_a_box_that_leaves_its_image_is_refused(
    folder: Path, box: tuple[int, int, int, int]
) -> None:
    (folder / "Annotations" / "b.xml").write_text(annotation([("cat", box, False)]))
    with pytest.raises(DataError, match=r"b\.xml has a box of 'cat'.* leaves its image of 12×9"):
        read_voc(folder, "trainval")


def test_what_is_missing_or_damaged_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"holds no VOCdevkit/VOC2007 with ImageSets/Main/test\.txt"
    ):
        read_voc(tmp_path / "elsewhere", "test")
    (folder / "ImageSets" / "Main" / "test.txt").unlink()
    with pytest.raises(DataError, match=r"ImageSets/Main/test\.txt; give the folder"):
        read_voc(folder, "test")
    for content in ("<annotation>", "<annotation><size/></annotation>"):
        (folder / "Annotations" / "b.xml").write_text(content)
        with pytest.raises(DataError, match=r"The annotation .*b\.xml is damaged"):
            read_voc(folder, "trainval")
    (folder / "Annotations" / "b.xml").unlink()
    with pytest.raises(DataError, match=r"The annotation .*b\.xml is missing; unpack it"):
        read_voc(folder, "trainval")
    (folder / "Annotations" / "b.xml").write_text(annotation([]))
    (folder / "JPEGImages" / "c.jpg").unlink()
    with pytest.raises(DataError, match=r"The image .*c\.jpg, which trainval\.txt names"):
        read_voc(folder, "trainval")


def test_annotations_without_objects_are_no_labels(tmp_path: Path) -> None:
    folder = write_voc(tmp_path, {"trainval": {"a": [], "b": []}})
    with pytest.raises(DataError, match="has an object, so no labels"):
        read_voc(folder, "trainval")


def test_blood_cells(tmp_path: Path) -> None:
    """A real data set, laid out by others."""
    shared_zip("bccd-voc.zip").extractall(tmp_path)
    train, test = (read_voc(tmp_path, split) for split in ("trainval", "test"))
    assert (len(train), len(test)) == (292, 72)
    assert train.classes == test.classes == ("Platelets", "RBC", "WBC")
    present = (train.targets == 1).sum(0) + (test.targets == 1).sum(0)
    assert present.tolist() == [201, 349, 358]
