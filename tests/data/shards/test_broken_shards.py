"""A shard that is missing, damaged or exchanged is named when it is read, never trained on."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from bt_ray.data.location import MANIFEST
from bt_ray.data.preparation.write import write_shards
from bt_ray.data.shards import row_groups
from bt_ray.data.shards.shard_set import ShardSet, is_shards
from bt_ray.data.sources import open_source
from bt_ray.errors import DataError
from tests.data.pictures import encoded

GROUPS = np.arange(6)


@pytest.fixture
def root(digits_test_shards: ShardSet, tmp_path: Path) -> Path:
    """360 digits in one shard of six row groups."""
    return Path(shutil.copytree(digits_test_shards.root, tmp_path / "shards"))


def shard_of(root: Path) -> Path:
    [shard] = root.glob("*.parquet")
    return shard


def change_manifest(root: Path, change: Callable[[dict[str, object]], None]) -> None:
    tree = json.loads((root / MANIFEST).read_text())
    change(tree["shards"][0])
    (root / MANIFEST).write_text(json.dumps(tree))


def test_a_missing_shard_is_named(root: Path) -> None:
    shard_of(root).unlink()
    with pytest.raises(DataError, match=r"shard-00000\.parquet is missing; restore it"):
        ShardSet.open(str(root)).read(GROUPS)


def test_a_truncated_shard_is_named(root: Path) -> None:
    content = shard_of(root).read_bytes()
    shard_of(root).write_bytes(content[: len(content) // 2])
    sentence = rf"has {len(content) // 2:,} bytes, and the manifest says {len(content):,}"
    with pytest.raises(DataError, match=sentence):
        ShardSet.open(str(root)).read(GROUPS)


def test_a_truncated_shard_of_an_older_manifest_is_named(root: Path) -> None:
    """Schema 1 told no sizes, and no footers."""
    content = shard_of(root).read_bytes()
    shard_of(root).write_bytes(content[: len(content) // 2])
    change_manifest(root, lambda shard: (shard.pop("num_bytes"), shard.pop("footer")))
    with pytest.raises(DataError, match=r"shard-00000\.parquet is damaged \(.*Parquet"):
        ShardSet.open(str(root)).read(GROUPS)


def test_every_altered_byte_of_an_image_is_noticed(root: Path) -> None:
    """Of the same size: the checksum of its page does not fit."""
    shards = ShardSet.open(str(root))
    image = shards.read(np.array([2]))["image"][7].as_py()
    content = bytearray(shard_of(root).read_bytes())
    place = content.index(image) + len(image) // 2
    content[place] ^= 1
    shard_of(root).write_bytes(content)
    with pytest.raises(DataError, match=r"shard-00000\.parquet is damaged \(.*CRC"):
        shards.read(GROUPS)


def test_a_shard_that_is_changed_while_it_is_in_use_is_noticed(root: Path, tmp_path: Path) -> None:
    shards = ShardSet.open(str(root))
    shards.read(GROUPS)
    write_shards(open_source("digits"), str(tmp_path / "other"), rows_per_row_group=64)
    shutil.copy(shard_of(tmp_path / "other"), shard_of(root))
    with pytest.raises(DataError, match="it was cut short or changed since"):
        shards.read(GROUPS)


def test_a_wrong_count_of_rows_is_noticed(root: Path) -> None:
    change_manifest(root, lambda shard: shard.update(num_rows=359))
    with pytest.raises(DataError, match="has 360 rows, and the manifest says 359"):
        ShardSet.open(str(root)).read(GROUPS)


@pytest.mark.parametrize("file", ["../shard.parquet", "/etc/passwd", "..", "a/b.parquet", "a\\b"])
def test_a_manifest_cannot_name_files_outside_its_folder(root: Path, file: str) -> None:
    change_manifest(root, lambda shard: shard.update(file=file))
    with pytest.raises(DataError, match=re.escape(f"{file!r}, which is not a file in its own")):
        ShardSet.open(str(root))


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b"\xff{}", b'{"schema_version": "2"}', b"[" * 100_000]
)
def test_what_is_no_manifest_is_named(root: Path, content: bytes) -> None:
    (root / MANIFEST).write_bytes(content)
    with pytest.raises(DataError, match=r"The manifest\.json in .* describes no shards"):
        ShardSet.open(str(root))


class Storage:
    """Fails some times before it answers."""

    def __init__(self, failures: int) -> None:
        self.failures, self.asked = failures, 0
        self.read = row_groups._read

    def __call__(self, *arguments: object) -> pa.Table:
        self.asked += 1
        if self.asked <= self.failures:
            raise OSError("When reading information for key: AWS Error SLOW_DOWN")
        return self.read(*arguments)  # type: ignore[arg-type]


def test_a_storage_that_fails_now_and_then_is_asked_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_groups, "_PAUSES_S", (0.0, 0.0, 0.0))
    monkeypatch.setattr(row_groups, "_read", storage := Storage(failures=3))
    assert len(ShardSet.open(str(root)).read(GROUPS)) == 360
    assert storage.asked == 4


def test_a_storage_that_keeps_failing_is_named_with_its_place(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_groups, "_PAUSES_S", (0.0, 0.0, 0.0))
    monkeypatch.setattr(row_groups, "_read", storage := Storage(failures=10))
    sentence = (
        rf"{re.escape(str(root))}/shard-00000\.parquet cannot be read, tried 4 times \(.*SLOW"
    )
    with pytest.raises(DataError, match=sentence):
        ShardSet.open(str(root)).read(GROUPS)
    assert storage.asked == 4


def test_pauses_grow(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paused = list[float]()
    monkeypatch.setattr("time.sleep", paused.append)
    monkeypatch.setattr(row_groups, "_read", Storage(failures=10))
    with pytest.raises(DataError):
        ShardSet.open(str(root)).read(GROUPS)
    assert paused == sorted(paused)
    assert paused[-1] > 2 * paused[0] > 0


@pytest.mark.parametrize("text", ['{"name": "my images"}', "[]", "no JSON", "", "null"])
def test_a_manifest_of_something_else_makes_no_shards(tmp_path: Path, text: str) -> None:
    """It may lie among images, as that of an app or of an export."""
    (tmp_path / "manifest.json").write_text(text)
    (tmp_path / "cat.jpg").write_bytes(encoded(0))
    assert not is_shards(str(tmp_path))
    with pytest.raises(DataError, match="describes no shards"):
        ShardSet.open(str(tmp_path))


@pytest.mark.parametrize("text", ["", '{"schema_version": 2, "ident'])
def test_a_manifest_that_was_emptied_or_cut_short_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    (tmp_path / "shard-00000.parquet").touch()
    assert is_shards(str(tmp_path))
    with pytest.raises(DataError, match=r"empty, was cut short.* prepare the data again"):
        ShardSet.open(str(tmp_path))
