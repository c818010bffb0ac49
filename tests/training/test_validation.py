"""The images that checkpoints are compared by."""

from pathlib import Path

import pytest

from bt_ray.config import Settings, override
from bt_ray.data.preparation.prepare import prepare_data
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.errors import DataError
from bt_ray.training.validation import (
    locate_validation,
    note_on_validation,
    prepare_validation,
    without_held_out,
)
from tests.training.test_selection import scored


def ids(root: str | None) -> set[str]:
    assert root is not None
    return set(ShardSet.open(root).read_columns(["sample_id"])["sample_id"].to_pylist())


def test_what_scores_is_not_trained_on(small_settings: Settings) -> None:
    whole, test = ids(small_settings.data.train), ids(small_settings.data.test)
    settings = prepare_validation(scored(small_settings, keep_best=True))
    data = settings.data
    assert ids(data.train) | ids(data.validation) == whole
    assert not ids(data.train) & ids(data.validation)
    assert not ids(data.validation) & test - whole
    assert len(ids(data.validation)) == 40  # four of each digit: a tenth of 360, in whole images
    assert ids(data.test) == test
    assert prepare_validation(settings) == settings, "what was held out is not cut again"
    unasked = scored(small_settings)
    assert prepare_validation(unasked) == unasked


@pytest.mark.parametrize("part", ["train", "test"])
def test_images_that_are_trained_or_tested_on_choose_nothing(
    small_settings: Settings, part: str
) -> None:
    same = getattr(small_settings.data, part)
    settings = override(small_settings, {"data.validation": same})
    with pytest.raises(DataError, match=f"data.validation is data.{part}, image by image"):
        prepare_validation(settings)


@pytest.mark.parametrize("labelled", [True, False])
def test_what_will_be_held_out_is_known_before_it_is(
    small_settings: Settings, tmp_path: Path, labelled: bool
) -> None:
    """Its place and the number of images, without a file being written."""
    settings = scored(small_settings, patience=3)
    if not labelled:
        source = override(settings, {"data.train": "digits:test", "data.labels": "none"})
        settings = prepare_data(override(source, {"data.test": None}))
    before = sorted(tmp_path.rglob("*"))
    located = locate_validation(settings)
    whole = ShardSet.open(settings.data.train).manifest
    expected = without_held_out(settings, whole).num_rows
    assert sorted(tmp_path.rglob("*")) == before
    prepared = prepare_validation(settings)
    assert located == prepared
    assert ShardSet.open(prepared.data.train).manifest.num_rows == expected < whole.num_rows
    assert str(note_on_validation(prepared)).startswith(f"{whole.num_rows - expected} images are")
