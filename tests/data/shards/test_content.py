"""What shards hold is told by their images and labels, however the files are laid out."""

import hashlib
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bt_ray.data.preparation.write import write_shards
from bt_ray.data.shards.manifest import Manifest
from bt_ray.data.shards.shard_file import update_rows
from bt_ray.data.sources import open_source

KNOWN = "53b3dc2876f08ae67ec7836cf1aa70ac8059e13e9daf4ad679a24f91af5c7ff4"
"""Of the images below, since shards have had `rows_sha256`."""


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number in range(12):
        file = tmp_path / "images" / f"c{number % 2}" / f"{number}.bmp"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (9, 8), number).save(file)
    return tmp_path / "images"


def prepare(images: Path, out: Path) -> Manifest:
    return write_shards(open_source(str(images)), str(out), rows_per_row_group=5).manifest


def test_another_layout_of_the_file_is_the_same_content(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = prepare(images, tmp_path / "ours")

    later = partial(pq.ParquetWriter, version="1.0", data_page_version="2.0")
    monkeypatch.setattr("bt_ray.data.shards.shard_file.pq.ParquetWriter", later)
    theirs = prepare(images, tmp_path / "theirs")
    assert [s.sha256 for s in ours.shards] != [s.sha256 for s in theirs.shards]
    assert ours.content == theirs.content


def test_the_same_images_have_the_content_that_they_always_had(
    images: Path, tmp_path: Path
) -> None:
    """Recorded results of ablations are found by it, and runs of earlier versions go on."""
    assert prepare(images, tmp_path / "out").content == KNOWN


def test_another_image_or_label_is_another_content(images: Path, tmp_path: Path) -> None:
    first = prepare(images, tmp_path / "first").content
    (images / "c0" / "0.bmp").rename(images / "c0" / "zero.bmp")  # another order
    moved = prepare(images, tmp_path / "moved").content
    (images / "c0" / "zero.bmp").rename(images / "c0" / "0.bmp")
    assert prepare(images, tmp_path / "back").content == first
    Image.new("L", (9, 8), 99).save(images / "c1" / "1.bmp")
    changed = prepare(images, tmp_path / "changed").content
    assert len({first, moved, changed}) == 3


def test_rows_that_differ_anywhere_have_other_digests() -> None:
    def digest(*rows: tuple[bytes, int | None]) -> str:
        found = hashlib.sha256()
        table = pa.table(
            {"image": [r[0] for r in rows], "label": pa.array([r[1] for r in rows], pa.int32())}
        )
        update_rows(found, table)
        return found.hexdigest()

    digests = [
        digest((b"ab", 0), (b"c", 1)),
        digest((b"a", 0), (b"bc", 1)),
        digest((b"c", 1), (b"ab", 0)),
        digest((b"ab", 1), (b"c", 0)),
        digest((b"ab", None), (b"c", 1)),
        digest((b"ab", 0)),
    ]
    assert len(set(digests)) == len(digests)
    known = (2).to_bytes(8, "little") + b"ab" + (-1).to_bytes(4, "little", signed=True)
    assert digest((b"ab", None)) == hashlib.sha256(known).hexdigest()
