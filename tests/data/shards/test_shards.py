import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bt_ray.config import Settings
from bt_ray.data.preparation.write import write_shards
from bt_ray.data.shards.shard_set import ShardSet, is_shards
from bt_ray.data.sources import open_source
from bt_ray.data.stream.decode import make_views, read_steps
from bt_ray.data.stream.plan import build_plan
from bt_ray.data.views.reference import decode
from bt_ray.errors import DataError


def write_image(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8 + level % 5, 9), (level, level, level)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(23):
        write_image(tmp_path / "images" / f"class {i % 3}" / "deep" / f"{i:02d}.png", i)
    return tmp_path / "images"


def test_folder_becomes_shards_and_comes_back(folder: Path, tmp_path: Path) -> None:
    written = write_shards(open_source(str(folder)), str(tmp_path / "out"), rows_per_row_group=5)
    shards = ShardSet.open(str(tmp_path / "out"))
    assert shards.manifest == written.manifest
    assert shards.manifest.num_rows == 23
    assert shards.manifest.classes == ("class 0", "class 1", "class 2")
    table = shards.read(np.arange(5))
    assert table["row"].to_pylist() == list(range(23))
    for row in table.to_pylist():
        level = decode(row["image"]).getpixel((0, 0))[0]
        assert row["sample_id"] == f"class {level % 3}/deep/{level:02d}.png"
        assert row["label"] == level % 3
        assert (row["width"], row["height"]) == (8 + level % 5, 9)
        assert row["image"] == (folder / row["sample_id"]).read_bytes()


def test_images_without_class_folders_have_no_labels(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "a.png", 1)
    write_image(tmp_path / "images" / "sub" / "b.png", 2)
    source = open_source(str(tmp_path / "images"))
    shards = write_shards(source, str(tmp_path / "out"), rows_per_row_group=5)
    assert shards.manifest.classes == ()
    assert shards.read(np.array([0]))["label"].to_pylist() == [None, None]


def test_row_groups_are_read_by_number_across_shards(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bt_ray.data.preparation.job._ROWS_PER_SHARD", 10)
    shards = write_shards(open_source(str(folder)), str(tmp_path / "out"), rows_per_row_group=5)
    assert [shard.num_rows for shard in shards.manifest.shards] == [10, 10, 3]
    assert shards.read(np.array([4, 1]))["row"].to_pylist() == [5, 6, 7, 8, 9, 20, 21, 22]


def test_workers_shares_are_disjoint_and_whole(digits_shards: ShardSet) -> None:
    shares = [digits_shards.read_share(rank, 3, 10**9)["row"].to_pylist() for rank in range(3)]
    assert sorted(row for share in shares for row in share) == list(range(1437))
    assert digits_shards.read_share(0, 1, 100).num_rows == 128  # whole row groups


def test_digits_are_split_without_overlap() -> None:
    train, test = open_source("digits"), open_source("digits:test")
    assert (len(train), len(test)) == (1437, 360)
    ids = {image.sample_id for image in train.read()} & {image.sample_id for image in test.read()}
    assert not ids


def test_a_foreign_folder_is_left_alone(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    with pytest.raises(DataError, match="not empty"):
        write_shards(open_source("digits"), str(folder), rows_per_row_group=5)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: None, "no folder"),
        (lambda path: path.mkdir(), "no image below"),
    ],
)
def test_nothing_to_read_is_said(tmp_path: Path, make, sentence: str) -> None:  # type: ignore[no-untyped-def]
    make(tmp_path / "x")
    with pytest.raises(DataError, match=sentence):
        open_source(str(tmp_path / "x"))


def test_text_named_jpg_is_named(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "story.jpg").write_text("once")
    with pytest.raises(DataError, match=r"story\.jpg"):
        write_shards(
            open_source(str(tmp_path / "images")), str(tmp_path / "o"), rows_per_row_group=5
        )
    assert not is_shards(str(tmp_path / "o"))


def test_a_truncated_jpeg_is_named_while_shards_are_written(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "whole.jpg", 100)
    content = (tmp_path / "images" / "whole.jpg").read_bytes()
    for name, size in (("header.jpg", 30), ("half.jpg", len(content) - 40)):
        bad = tmp_path / "images" / name
        bad.write_bytes(content[:size])
        with pytest.raises(DataError, match=name):
            write_shards(open_source(str(tmp_path / "images")), str(tmp_path / name[:4]),
                         rows_per_row_group=5)  # fmt: skip
        bad.unlink()


def test_a_newer_schema_is_refused(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "out"
    write_shards(open_source(str(folder)), str(root), rows_per_row_group=5)
    tree = json.loads((root / "manifest.json").read_text())
    (root / "manifest.json").write_text(json.dumps({**tree, "schema_version": 99}))
    with pytest.raises(DataError, match="schema 99"):
        ShardSet.open(str(root))


def test_steps_are_read_in_the_plans_order(
    small_settings: Settings, digits_test_shards: ShardSet
) -> None:
    plan = build_plan(small_settings, digits_test_shards.manifest)
    table = read_steps(digits_test_shards, plan, 1, 2)
    assert table["row"].to_pylist() == plan.batch(1).tolist()
    assert table["step"].to_pylist() == [1] * 128
    assert table["slot"].to_pylist() == list(range(128))


def test_views_of_a_row_do_not_depend_on_its_neighbours(
    small_settings: Settings, digits_test_shards: ShardSet
) -> None:
    plan = build_plan(small_settings, digits_test_shards.manifest)
    table = read_steps(digits_test_shards, plan, 0, 1)
    whole = make_views(table, small_settings, plan.steps_per_epoch)
    part = make_views(table.slice(50, 50), small_settings, plan.steps_per_epoch)
    for name in ("view_a", "view_b"):
        assert np.array_equal(whole[name][50:100], part[name])
    assert not np.array_equal(whole["view_a"], whole["view_b"])


def test_greyscale_palette_and_cmyk_become_rgb() -> None:
    for mode in ("L", "P", "CMYK", "RGBA", "1", "I;16"):
        buffer = io.BytesIO()
        Image.new(mode, (4, 4)).save(buffer, format="TIFF")
        assert decode(buffer.getvalue()).mode == "RGB"
