"""Parquet files of other people, as Hugging Face and others write them."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bt_ray.data.preparation.tasks import Task
from bt_ray.data.preparation.write import write_shards
from bt_ray.data.sources import open_source
from bt_ray.errors import DataError
from tests.data.pictures import encoded, write_folder

NAMES = ["cat", "dog", "eel"]


def hugging_face(path: Path, numbers: range) -> None:
    """A file as `datasets` writes one: structs, integer labels, classes in the metadata."""
    images = [{"bytes": encoded(i), "path": f"{i}.jpg"} for i in numbers]
    table = pa.table({"image": images, "label": [i % 3 for i in numbers]})
    features = {"label": {"names": NAMES, "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=4)


@pytest.mark.parametrize("suffix", ["", "data", "data/train-{00000..00002}.parquet"])
def test_hugging_faces_files_come_with_bytes_labels_classes_and_paths(
    tmp_path: Path, suffix: str
) -> None:
    """By their folder, or one above it, or by braces."""
    for file in range(3):
        path = tmp_path / "data" / f"train-{file:05d}.parquet"
        hugging_face(path, range(10 * file, 10 * file + 10))
    source = open_source(str(tmp_path / suffix))
    assert source.classes == tuple(NAMES)
    found = list(source.read())
    assert len(found) == 30
    for image in found:
        number = int(image.origin.rpartition("/")[2].removesuffix(".jpg"))
        assert image.encoded == encoded(number)
        assert image.class_name == NAMES[number % 3]
        assert image.sample_id == f"train-{number // 10:05d}.parquet:{number % 10:07d}"
    assert [i.origin for i in found] != sorted(i.origin for i in found)
    assert list(source.take([7, 29, 0]).read()) == [found[7], found[29], found[0]]


def test_one_file_of_plain_bytes_and_words(tmp_path: Path) -> None:
    """A binary column, and labels that name their classes."""
    table = pa.table({"jpg": [encoded(0), encoded(1)], "label": ["eel", "cat"], "other": [1, 2]})
    pq.write_table(table, tmp_path / "x.parquet")
    source = open_source(str(tmp_path / "x.parquet"))
    assert source.classes == ("cat", "eel")
    assert {image.encoded: image.class_name for image in source.read()} == {
        encoded(0): "eel",
        encoded(1): "cat",
    }


def test_labels_below_zero_are_none(tmp_path: Path) -> None:
    """As Hugging Face marks test sets whose labels are secret."""
    pq.write_table(pa.table({"image": [encoded(0)], "label": [-1]}), tmp_path / "x.parquet")
    assert open_source(str(tmp_path / "x.parquet")).classes == ()
    mixed = pa.table({"image": [encoded(0), encoded(1)], "label": [-1, 1]})
    pq.write_table(mixed, tmp_path / "x.parquet")
    source = open_source(str(tmp_path / "x.parquet"))
    assert sorted(str(image.label) for image in source.read()) == ["1", "None"]
    manifest = write_shards(source, str(tmp_path / "out"), rows_per_row_group=2).manifest
    assert manifest.rows_per_class == (0, 1)


def test_shards_can_be_prepared_anew(tmp_path: Path) -> None:
    """Our own shards are Parquet too: the classes keep their names and numbers."""
    images = {f"{name}/{i}.jpg": encoded(i) for i, name in enumerate(["eel", "cat", "dog", "cat"])}
    first = open_source(write_folder(tmp_path / "images", images))
    write_shards(first, str(tmp_path / "a"), rows_per_row_group=2)
    again = open_source(str(tmp_path / "a"))
    assert again.classes == first.classes == ("cat", "dog", "eel")
    assert {i.encoded: (i.label, i.class_name) for i in again.read()} == {
        i.encoded: (i.label, i.class_name) for i in first.read()
    }


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (pa.table({"text": ["a"]}), "has no column of images"),
        (pa.table({"image": pa.array([], pa.binary())}), "no row in"),
        (pa.table({"image": [b"x"], "label": [-7]}), "labels count from 0"),
        (None, "cannot be read as Parquet"),
    ],
)
def test_files_without_images_are_refused(
    tmp_path: Path, content: pa.Table | None, sentence: str
) -> None:
    if content is None:
        (tmp_path / "x.parquet").write_text("no Parquet")
    else:
        pq.write_table(content, tmp_path / "x.parquet")
    with pytest.raises(DataError, match=sentence):
        open_source(str(tmp_path / "x.parquet"))


def test_a_row_without_an_image_is_a_bad_image(tmp_path: Path) -> None:
    table = pa.table({"image": [encoded(0), None]})
    pq.write_table(table, tmp_path / "x.parquet")
    source = open_source(str(tmp_path / "x.parquet"))
    with pytest.raises(DataError, match=r"'x.parquet:0000001' cannot be decoded \(no image\)"):
        write_shards(source, str(tmp_path / "out"), rows_per_row_group=2)


def test_splits_in_one_folder_are_not_mixed(tmp_path: Path) -> None:
    """Or test images would be trained on without a word."""
    hugging_face(tmp_path / "data" / "train-00000.parquet", range(4))
    hugging_face(tmp_path / "data" / "test-00000.parquet", range(4, 8))
    with pytest.raises(DataError, match=r"several splits, such as test-00000.parquet and train-"):
        open_source(str(tmp_path))


def test_many_shards_read_each_row_group_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a copy on the way, which leaves no trace: the shards are those made without it."""
    for file in range(3):
        hugging_face(tmp_path / "in" / f"{file}.parquet", range(20 * file, 20 * file + 20))
    monkeypatch.setattr("bt_ray.data.preparation.job._ROWS_PER_SHARD", 6)
    source = open_source(str(tmp_path / "in"))
    reads: list[int] = []
    read = pq.ParquetFile.read_row_group

    def counted(self: pq.ParquetFile, i: int, columns: list[str]) -> pa.Table:
        reads.append(i)
        return read(self, i, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    staged = write_shards(source, str(tmp_path / "staged"), rows_per_row_group=3)
    assert len(reads) == 15
    monkeypatch.setattr("bt_ray.data.preparation.staging._MOST_REREADS", 100)
    plain = write_shards(source, str(tmp_path / "plain"), rows_per_row_group=3)
    assert len(reads) - 15 > 3 * 15
    assert staged.manifest == plain.manifest
    names = {path.name for path in (tmp_path / "staged").iterdir()}
    assert names == {"manifest.json", *(f"shard-{i:05d}.parquet" for i in range(10))}


def test_a_copy_on_the_way_can_be_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hugging_face(tmp_path / "in.parquet", range(60))
    monkeypatch.setattr("bt_ray.data.preparation.job._ROWS_PER_SHARD", 6)
    source = open_source(str(tmp_path / "in.parquet"))
    whole = write_shards(source, str(tmp_path / "whole"), rows_per_row_group=3)
    left = [3]

    def run_all(tasks: Sequence[Task]) -> Iterator[str]:
        for task in tasks:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            yield task()

    with pytest.raises(KeyboardInterrupt):
        write_shards(source, str(tmp_path / "cut"), rows_per_row_group=3, run_all=run_all)
    assert len(list((tmp_path / "cut" / "_unfinished").glob("stage-*.json"))) == 3
    told: list[tuple[str, int, int]] = []
    again = write_shards(
        source, str(tmp_path / "cut"), rows_per_row_group=3,
        on_progress=lambda *progress: told.append(progress),
    )  # fmt: skip
    assert told[0][0] == "copied"
    assert told[0][1] > 0
    assert again.manifest == whole.manifest
