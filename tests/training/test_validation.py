"""The images that checkpoints are compared by."""

import pytest

from bt_ray.config import Settings, override
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.errors import DataError
from bt_ray.training.validation import prepare_validation
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
