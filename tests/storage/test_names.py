"""Names of files in a storage, and of storages."""

from pathlib import Path

import pytest

from bt_ray.storage.names import absolute, below, folder_of, is_far, name_of, origin_of
from bt_ray.storage.store import Store, is_inside


@pytest.mark.parametrize("name", ["a", "a/b.json", "..a/b", "a/...", "a b"])
def test_a_name_is_one_below_its_folder(name: str) -> None:
    assert is_inside(name)


@pytest.mark.parametrize("name", ["../a", "a/../b", "/a", "a//b", "a/.", "..", "", "a\\..\\b"])
def test_a_name_that_leads_elsewhere_is_none(name: str) -> None:
    assert not is_inside(name)


def test_options_follow_the_place() -> None:
    uri = "s3://key:secret@bucket/runs?region=x&scheme=http"
    assert below(uri, "mine") == "s3://key:secret@bucket/runs/mine?region=x&scheme=http"
    assert Store(uri).below("a").below("b").shown == "s3://bucket/runs/a/b"
    assert absolute("s3://bucket/runs/?region=x") == "s3://bucket/runs?region=x"


def test_a_file_uri_is_a_path(tmp_path: Path) -> None:
    assert not is_far(f"file://{tmp_path}")
    assert absolute(f"file://{tmp_path}") == str(tmp_path)
    assert folder_of(str(tmp_path)) == tmp_path
    assert origin_of(tmp_path) is None
    assert name_of(tmp_path / "a") == str(tmp_path / "a")


def test_a_copy_is_named_by_what_it_is_a_copy_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    uri = "s3://key:secret@bucket/runs?region=x"
    folder = folder_of(uri)
    assert folder.parent.stat().st_mode & 0o777 == 0o700
    assert name_of(folder / "mine") == "s3://bucket/runs/mine?region=x"
    origin = origin_of(folder / "mine")
    assert origin is not None
    assert origin.uri == "s3://key:secret@bucket/runs/mine?region=x"
    other = folder_of("s3://bucket/runs?region=y")
    assert other != folder
    assert folder_of("s3://bucket/runs?region=x") == folder, "keys name no other place"
