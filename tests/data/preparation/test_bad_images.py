"""Broken images: all are listed by the first start, none is looked for twice, a flag goes on."""

import json
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest

from bt_ray.config import Pixels, Settings, override
from bt_ray.data.preparation import bad_images
from bt_ray.data.preparation.job import Treatment
from bt_ray.data.preparation.prepare import prepare_data
from bt_ray.data.preparation.write import write_shards
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.sources import open_source
from bt_ray.errors import DataError
from bt_ray.presets import preset
from tests.data.pictures import encoded, write_folder


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two row groups of five."""
    monkeypatch.setattr("bt_ray.data.preparation.job._ROWS_PER_SHARD", 10)


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The images that were looked at, each time."""
    seen: list[bytes] = []

    def fault_of(content: bytes, pixels: Pixels) -> str | None:
        seen.append(content)
        return real(content, pixels)

    real = bad_images.fault_of
    monkeypatch.setattr(bad_images, "fault_of", fault_of)
    return seen


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty images, of which twelve are broken."""
    images = {f"{i:02d}.jpg": encoded(i) for i in range(28)}
    images |= {f"bad{i:02d}.jpg": b"no image" for i in range(12)}
    write_folder(tmp_path / "images", images)
    return tmp_path / "images"


@pytest.fixture
def settings(folder: Path, tmp_path: Path) -> Settings:
    return override(preset("digits"), {
        "data.train": str(folder), "data.test": None, "data.rows_per_row_group": 5,
        "storage": str(tmp_path / "runs"),
    })  # fmt: skip


def test_a_first_start_names_all_and_the_next_ones_look_at_none_again(
    settings: Settings, tmp_path: Path, looked_at: list[bytes]
) -> None:
    for _ in range(2):
        with pytest.raises(
            DataError, match=r"12 of 40 images in .* --data\.on-bad-image skip"
        ) as told:
            prepare_data(settings)
        assert len(looked_at) == 40
    text = str(told.value)
    assert "'bad00.jpg' cannot be decoded (no image)" in text
    assert "and 2 more" in text
    listing = text.split("All are listed in ")[1].split(". Remove")[0]
    names = [json.loads(line)["sample_id"] for line in Path(listing).read_text().splitlines()]
    assert names == [f"bad{i:02d}.jpg" for i in range(12)]
    skipping = override(settings, {"data.on_bad_image": "skip"})
    manifest = ShardSet.open(prepare_data(skipping).data.train).manifest
    assert (manifest.num_rows, manifest.num_rejected) == (28, 12)
    assert len(looked_at) == 40
    assert prepare_data(settings).data.train == prepare_data(skipping).data.train


def test_mended_images_are_prepared_by_the_same_command_and_nothing_is_left_of_before(
    settings: Settings, folder: Path, tmp_path: Path
) -> None:
    for start in (lambda: prepare_data(settings), lambda: _write(folder, tmp_path / "out")):
        with pytest.raises(DataError, match="12 of 40"):
            start()
    for file in folder.glob("bad*"):
        file.unlink()
    manifest = ShardSet.open(prepare_data(settings).data.train).manifest
    assert (manifest.num_rows, manifest.num_rejected) == (28, 0)
    assert len([path for path in (tmp_path / "runs" / "shards").iterdir() if path.is_dir()]) == 1
    again = _write(folder, tmp_path / "out")
    assert again.manifest.content == manifest.content
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"manifest.json", *(shard.file for shard in manifest.shards)}


def _write(folder: Path, root: Path, treatment: Treatment | None = None) -> ShardSet:
    source = open_source(str(folder))
    return write_shards(source, str(root), rows_per_row_group=5, treatment=treatment)


def test_a_source_with_more_broken_images_than_whole_ones_is_hardly_one(
    folder: Path, tmp_path: Path
) -> None:
    for number in range(20):
        (folder / f"worse{number}.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"32 of 60 images .* takes --max-bad-rate 0\.54"):
        _write(folder, tmp_path / "out", Treatment(on_bad_image="skip"))
    assert not list((tmp_path / "out").glob("shard-*"))
    allowed = Treatment(on_bad_image="skip", max_bad_rate=0.54)
    assert _write(folder, tmp_path / "out", allowed).manifest.num_rows == 28


@pytest.mark.parametrize("torn", ["manifest.json", "_unfinished/claim.json"])
def test_shards_below_a_storage_whose_json_was_emptied_are_written_anew(
    settings: Settings, torn: str
) -> None:
    whole = override(settings, {"data.on_bad_image": "skip"})
    if torn == "manifest.json":
        root = Path(prepare_data(whole).data.train)
    else:
        with pytest.raises(DataError):
            prepare_data(settings)
        [claim] = Path(settings.storage).glob("shards/*/_unfinished/claim.json")
        root = claim.parent.parent
    (root / torn).write_text("")
    assert ShardSet.open(prepare_data(whole).data.train).manifest.num_rows == 28


def test_deep_images_are_told_once_with_the_rule(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    deep = (np.arange(144).reshape(12, 12) * 28).astype(np.uint16)
    images = {f"{i}.tif": cv2.imencode(".tiff", deep + i)[1].tobytes() for i in range(12)}
    write_folder(tmp_path / "deep", images | {"plain.jpg": encoded(0)})
    with caplog.at_level(logging.WARNING):
        _write(tmp_path / "deep", tmp_path / "out")
        _write(tmp_path / "deep", tmp_path / "out")
    assert caplog.text.count("12 of the images") == 1
    assert "more than 8 bits a channel" in caplog.text
    assert "smallest of 8, 10, 12, 14 and 16 bits" in caplog.text
