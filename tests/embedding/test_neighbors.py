"""Neighbours among the vectors of many files are those of the whole similarity matrix."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity

from bt_ray.embedding.encoder import Computation
from bt_ray.embedding.neighbors import EmbeddingSet
from bt_ray.errors import DataError
from bt_ray.evaluation.knn import nearest_in_blocks
from tests.data.pictures import encoded, write_folder
from tests.embedding.test_embed import new_encoder, write


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingSet:
    """Forty images in five files."""
    folder = tmp_path_factory.mktemp("embedded")
    write_folder(folder / "images", {f"c{i % 3}/{i:02d}.jpg": encoded(i) for i in range(40)})
    write(folder / "images", folder / "out", new_encoder(), rows_per_file=9)
    return EmbeddingSet.open(str(folder / "out"))


def test_neighbors_are_those_of_the_whole_matrix(embedded: EmbeddingSet) -> None:
    bank = torch.cat(list(embedded.vectors())).numpy()
    assert bank.shape == (40, 256)
    names = [name.as_py() for t in embedded.tables(["sample_id"]) for name in t["sample_id"]]
    assert names == sorted(names)
    queries = np.random.default_rng(0).normal(size=(6, 256)).astype(np.float32)
    similarities = cosine_similarity(queries, bank)
    found = embedded.look_up(torch.from_numpy(queries), 12)
    for row, neighbors in zip(similarities, found, strict=True):
        order = np.argsort(-row)[:12]
        assert [near.sample_id for near in neighbors] == [names[i] for i in order]
        np.testing.assert_allclose([n.similarity for n in neighbors], row[order], atol=1e-6)
        assert all(near.class_name == near.source.split("/")[0] for near in neighbors)


def test_more_neighbors_than_images_are_all_images(embedded: EmbeddingSet) -> None:
    (found,) = embedded.look_up(torch.ones(1, 256), 100)
    assert len({near.sample_id for near in found}) == 40


def test_blocks_of_any_size_change_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, bank = (torch.randn(n, 8, generator=generator) for n in (5, 100))
    expected = nearest_in_blocks(queries, [bank], 7)
    for sizes in ([1] * 100, [3, 97], [60, 2, 38]):
        found = nearest_in_blocks(queries, bank.split(sizes), 7)
        assert torch.equal(found[1], expected[1])
        torch.testing.assert_close(found[0], expected[0])


def test_an_image_is_looked_up_by_its_file_and_by_its_id(embedded: EmbeddingSet) -> None:
    """An embedded image is its own nearest neighbour, by either way."""
    file = Path(embedded.root).parent / "images" / "c1" / "22.jpg"
    by_file = embedded.vectors_of_files([file], Computation())
    by_id = embedded.vectors_of(["c1/22.jpg"])
    torch.testing.assert_close(by_file, by_id, atol=1e-5, rtol=0)
    (found,) = embedded.look_up(by_file, 1)
    assert found[0].sample_id == "c1/22.jpg"
    assert found[0].similarity == pytest.approx(1)
    two = embedded.vectors_of(["c1/22.jpg", "c0/00.jpg"])
    assert torch.equal(two[0], by_id[0])


def test_what_cannot_be_looked_up_is_named(embedded: EmbeddingSet, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'c9/99\.jpg' is neither an image file nor the id"):
        embedded.vectors_of(["c0/00.jpg", "c9/99.jpg"])
    (tmp_path / "story.jpg").write_text("once upon a time")
    with pytest.raises(DataError, match=r"story\.jpg' cannot be decoded \(no image\)"):
        embedded.vectors_of_files([tmp_path / "story.jpg"], Computation())
    with pytest.raises(DataError, match="holds no finished vectors"):
        EmbeddingSet.open(str(tmp_path))
    write_folder(tmp_path / "app", {"manifest.json": b'{"name": "an app"}'})
    with pytest.raises(DataError, match="is not one of vectors"):
        EmbeddingSet.open(str(tmp_path / "app"))


@pytest.mark.parametrize("name", ["../part.parquet", "/etc/hostname", "..", "a/b", "a\\b", ""])
def test_a_manifest_cannot_name_files_outside_its_folder(
    embedded: EmbeddingSet, tmp_path: Path, name: str
) -> None:
    tree = json.loads(embedded.manifest.to_json())
    tree["files"][0]["file"] = name
    (tmp_path / "manifest.json").write_text(json.dumps(tree))
    with pytest.raises(DataError, match="which is not in its own folder"):
        EmbeddingSet.open(str(tmp_path))


def test_a_damaged_or_missing_file_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path / "images", {f"{i:02d}.jpg": encoded(i) for i in range(20)})
    write(tmp_path / "images", tmp_path / "out", new_encoder())
    opened = EmbeddingSet.open(str(tmp_path / "out"))
    file = tmp_path / "out" / "part-000001.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[:2000] + bytes([whole[2000] ^ 1]) + whole[2001:])
    with pytest.raises(DataError, match=r"part-000001\.parquet cannot be read"):
        opened.look_up(torch.ones(1, 256), 3)
    file.write_bytes(whole[:-1])
    with pytest.raises(DataError, match="and the manifest says"):
        opened.look_up(torch.ones(1, 256), 3)
    file.unlink()
    with pytest.raises(DataError, match=r"part-000001\.parquet cannot be read"):
        opened.look_up(torch.ones(1, 256), 3)
