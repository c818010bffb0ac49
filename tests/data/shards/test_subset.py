"""A part of a data set's labels: drawn class by class, or named in a list."""

from pathlib import Path

import numpy as np
import pytest

from bt_ray.data.preparation.prepare import write_source
from bt_ray.data.preparation.write import write_shards
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.shards.subset import draw_balanced, find_rows, read_names, subset
from bt_ray.data.sources import open_source
from bt_ray.errors import DataError
from tests.data.pictures import encoded

LABELS = np.random.default_rng(0).choice(5, 1000, p=[0.4, 0.3, 0.2, 0.09, 0.01])


def test_a_balanced_draw_has_equally_many_of_each_class() -> None:
    rows = draw_balanced(LABELS, 5, share=0.02, seed=0)
    assert np.bincount(LABELS[rows]).tolist() == [4] * 5
    assert (np.diff(rows) > 0).all()
    assert np.bincount(LABELS[draw_balanced(LABELS, 5, share=1e-6, seed=0)]).tolist() == [1] * 5


def test_a_class_of_too_few_gives_all() -> None:
    rows = draw_balanced(LABELS, 5, share=0.5, seed=0)
    counts = np.bincount(LABELS[rows])
    assert counts.tolist() == np.minimum(100, np.bincount(LABELS)).tolist()
    assert counts[4] < 20


def test_a_draw_is_the_seeds_and_a_smaller_one_is_part_of_it() -> None:
    small, large = (draw_balanced(LABELS, 5, share=share, seed=3) for share in (0.01, 0.1))
    assert set(small) < set(large)
    assert np.array_equal(small, draw_balanced(LABELS, 5, share=0.01, seed=3))
    assert not np.array_equal(small, draw_balanced(LABELS, 5, share=0.01, seed=4))


@pytest.fixture
def shards(tmp_path: Path) -> ShardSet:
    for number in range(30):
        file = tmp_path / "images" / f"n{number % 3}" / f"{'same' if number < 2 else number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(number))
    source = open_source(str(tmp_path / "images"))
    return write_shards(source, str(tmp_path / "shards"), rows_per_row_group=4)


def test_a_subset_holds_its_rows_with_all_classes(shards: ShardSet, tmp_path: Path) -> None:
    rows = np.array([0, 3, 4, 17, 28])
    root = write_source(
        subset(shards, rows, "five"), str(tmp_path / "storage"), rows_per_row_group=2
    )
    found = ShardSet.open(root)
    assert found.manifest.classes == shards.manifest.classes
    whole, part = (s.read_columns(["sample_id", "image", "label"]) for s in (shards, found))
    assert part.equals(whole.take(rows))
    again = write_source(
        subset(shards, rows, "five"), str(tmp_path / "storage"), rows_per_row_group=2
    )
    assert again == root
    assert subset(shards, rows[1:], "four").identity != subset(shards, rows, "five").identity


def test_images_are_found_by_their_names(shards: ShardSet, tmp_path: Path) -> None:
    names = shards.read_columns(["sample_id"])["sample_id"].to_pylist()
    file = tmp_path / "list.txt"
    file.write_text("7.jpg\n\n n2/8.jpg \nn0/same.jpg\n7.jpg\n")
    rows = find_rows(shards, read_names(file))
    assert {names[row] for row in rows} == {"n1/7.jpg", "n2/8.jpg", "n0/same.jpg"}


def test_names_that_are_nobodys_or_of_several_are_refused(shards: ShardSet, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"names 'n0/7\.jpg', and no training image is called so"):
        find_rows(shards, ["n0/7.jpg"])
    with pytest.raises(DataError, match=r"2 images are called 'same\.jpg'; name them with their"):
        find_rows(shards, ["same.jpg"])
    with pytest.raises(DataError, match=r"absent\.txt cannot be read"):
        read_names(tmp_path / "absent.txt")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(DataError, match=r"empty\.txt is empty"):
        read_names(tmp_path / "empty.txt")
