from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bt_ray.config import Settings, override
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.errors import SettingsError
from bt_ray.presets import preset
from bt_ray.tuning.split import hold_out


def ids(root: str | None) -> set[str]:
    assert root is not None
    return set(ShardSet.open(root).read_columns(["sample_id"])["sample_id"].to_pylist())


def labels(root: str | None) -> list[int]:
    assert root is not None
    return list(ShardSet.open(root).read_columns(["label"])["label"].to_pylist())


def test_the_parts_are_disjoint_whole_and_balanced(small_settings: Settings) -> None:
    parts = hold_out(small_settings, share=0.25).data
    whole = ids(small_settings.data.train)
    assert ids(parts.train) | ids(parts.test) == whole
    assert not ids(parts.train) & ids(parts.test)
    assert np.bincount(labels(parts.test)).tolist() == [9] * 10  # a quarter of 360, ten classes


def test_the_split_is_written_once_and_is_that_of_the_seed(small_settings: Settings) -> None:
    first = hold_out(small_settings).data
    written = {file: file.stat().st_mtime_ns for file in Path(str(first.train)).iterdir()}
    longer = override(small_settings, {"schedule.epochs": 9, "training.seed": 7})
    assert hold_out(longer).data == first
    assert {file: file.stat().st_mtime_ns for file in written} == written
    assert ids(hold_out(small_settings, seed=1).data.test) != ids(first.test)


def test_test_images_are_not_looked_at(small_settings: Settings) -> None:
    data = replace(small_settings.data, test="nowhere/at/all")
    assert hold_out(replace(small_settings, data=data)).data.test != "nowhere/at/all"


def test_a_source_that_is_not_prepared_yet_is(tmp_path: Path) -> None:
    settings = override(preset("digits"), {"storage": str(tmp_path)})
    parts = hold_out(settings).data
    assert len(ids(parts.test)) == 140  # fourteen of each digit
    assert len(ids(parts.train)) == 1437 - 140


def test_without_labels_any_images_are_held_out(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for grey in range(40):
        Image.new("L", (8, 8), 6 * grey).save(folder / f"{grey}.png")
    settings = override(
        preset("images"),
        {"storage": str(tmp_path / "runs"), "data.train": str(folder), "data.global_batch": 16},
    )
    parts = hold_out(settings).data
    assert (len(ids(parts.train)), len(ids(parts.test))) == (36, 4)
    assert set(labels(parts.test)) == {None}
    assert hold_out(settings).data == parts


def test_a_part_too_small_is_refused(small_settings: Settings) -> None:
    with pytest.raises(SettingsError, match=r"data\.global_batch=128"):
        hold_out(small_settings, share=0.9)
    with pytest.raises(SettingsError, match="between 0 and 1"):
        hold_out(small_settings, share=0.0)
