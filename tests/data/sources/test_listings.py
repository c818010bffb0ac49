"""Places-205 and iNaturalist 2018, as their authors lay them out."""

import json
from pathlib import Path

import pytest

from bt_ray.data.sources import open_source
from bt_ray.errors import DataError
from tests.data.pictures import encoded

PLACES = {"a/abbey/x.jpg": 0, "a/abbey/y.jpg": 0, "b/bar/x.jpg": 1}


def write_places(root: Path) -> None:
    images, lists = (root / part for part in (
        "data/vision/torralba/deeplearning/images256", "trainvalsplit_places205",
    ))  # fmt: skip
    lists.mkdir(parents=True)
    for number, split in enumerate(("train", "val")):
        lines = []
        for place, (path, label) in enumerate(PLACES.items()):
            named = path.replace("/x", f"/{split}-x").replace("/y", f"/{split}-y")
            lines.append(f"{named} {label}")
            file = images / named
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encoded(10 * number + place))
        (lists / f"{split}_places205.csv").write_text("\n".join(lines) + "\n")


def test_places(tmp_path: Path) -> None:
    write_places(tmp_path)
    source, other = (open_source(f"places205:{split}:{tmp_path}") for split in ("train", "val"))
    assert source.classes == other.classes == ("a/abbey", "b/bar")
    images = {image.sample_id.replace("train-", ""): image for image in source.read()}
    assert {name: image.label for name, image in images.items()} == PLACES
    assert images["b/bar/x.jpg"].encoded == encoded(2)
    assert other.identity != source.identity


def inaturalist(root: Path, split: str, notes: list[tuple[int, int]]) -> None:
    images = [
        {"id": image, "file_name": f"train_val2018/Aves/{category}/{split}{image}.jpg"}
        for image, category in notes
    ]
    tree = {
        "images": images,
        "annotations": [{"image_id": i, "category_id": c} for i, c in notes],
        "categories": [{"id": c, "name": f"bird {c}"} for c in (7, 3, 12)],
    }
    (root / f"{split}2018.json").write_text(json.dumps(tree))
    for number, image in enumerate(images):
        file = root / str(image["file_name"])
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(number))


def test_inaturalist(tmp_path: Path) -> None:
    inaturalist(tmp_path, "train", [(1, 3), (2, 12), (3, 7)])
    inaturalist(tmp_path, "val", [(9, 12)])
    train, val = (open_source(f"inat18:{split}:{tmp_path}") for split in ("train", "val"))
    assert train.classes == val.classes == ("3", "7", "12")
    labels = {image.sample_id.rpartition("/")[2]: image.label for image in train.read()}
    assert labels == {"train1.jpg": 0, "train2.jpg": 2, "train3.jpg": 1}
    assert [image.label for image in val.read()] == [2]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no .*train_places205\.csv"):
        open_source(f"places205:train:{tmp_path}")
    with pytest.raises(DataError, match=r"must be inat18:train:ROOT or inat18:val:ROOT"):
        open_source(f"inat18:test:{tmp_path}")
    write_places(tmp_path)
    images = tmp_path / "data/vision/torralba/deeplearning/images256"
    (images / "a/abbey/train-y.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of the 3 images .* such as a/abbey/train-y\.jpg"):
        open_source(f"places205:train:{tmp_path}")
    (tmp_path / "trainvalsplit_places205" / "val_places205.csv").write_text("a/abbey/x.jpg\n")
    with pytest.raises(DataError, match=r"must hold lines `PATH LABEL`; 'a/abbey/x\.jpg' is none"):
        open_source(f"places205:val:{tmp_path}")
    inaturalist(tmp_path, "train", [(1, 3), (2, 99)])
    with pytest.raises(DataError, match=r"train2018\.json lacks 99"):
        open_source(f"inat18:train:{tmp_path}")
