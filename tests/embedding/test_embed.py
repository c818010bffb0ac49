"""A folder of vectors: whose they are, what is in it, and that it can be gone on with."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from bt_ray.config import Settings, override
from bt_ray.data.preparation.tasks import RunAll, Task, one_after_the_other
from bt_ray.data.preparation.write import write_shards
from bt_ray.data.sources import open_source
from bt_ray.embedding.embed import EmbeddingJob, embed, usual_rows_per_file
from bt_ray.embedding.encoder import Computation, load_encoder
from bt_ray.embedding.manifest import EmbeddingManifest
from bt_ray.embedding.neighbors import EmbeddingSet
from bt_ray.embedding.pool import build_pool
from bt_ray.errors import CheckpointError, DataError, SettingsError
from bt_ray.evaluation.features import compute_features, fingerprint
from bt_ray.model.encoder import build_encoder
from bt_ray.model.pretrained import Pretrained
from bt_ray.presets import preset
from tests.data.pictures import encoded, tar_bytes, write_folder
from tests.data.preparation.test_preparation import contents, stop_after

CPU = torch.device("cpu")


def new_encoder(seed: int = 0) -> Pretrained:
    settings: Settings = override(preset("digits"), {"views.image_px": 8})
    torch.manual_seed(seed)
    return Pretrained(build_encoder(settings).eval(), settings)


@pytest.fixture(scope="module")
def pretrained() -> Pretrained:
    return new_encoder()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Twenty-three images of three classes."""
    folder = tmp_path / "images"
    write_folder(folder, {f"c{i % 3}/{i:02d}.jpg": encoded(i) for i in range(23)})
    return folder


def write(
    source: Path | str,
    root: Path | str,
    pretrained: Pretrained,
    run_all: RunAll = one_after_the_other,
    rows_per_file: int = 10,
    **computation: Any,
) -> EmbeddingManifest:
    job = EmbeddingJob(
        open_source(str(source)), str(root), pretrained, "an encoder", "run 7",
        Computation(**computation), rows_per_file,
    )  # fmt: skip
    return embed(job, run_all, lambda phase, done, total: None)


def rows_of(root: Path) -> dict[str, dict[str, Any]]:
    files = sorted(root.glob("part-*.parquet"))
    return {row["sample_id"]: row for file in files for row in pq.read_table(file).to_pylist()}


@pytest.mark.parametrize("threads", [1, 3])
def test_vectors_are_those_that_evaluations_use(
    images: Path, pretrained: Pretrained, tmp_path: Path, threads: int
) -> None:
    """Of every image, under its own name, whatever the batches and threads."""
    write(images, tmp_path / "out", pretrained, threads=threads, batch_size=4)
    shards = write_shards(open_source(str(images)), str(tmp_path / "shards"), rows_per_row_group=5)
    expected = compute_features(pretrained, shards, CPU).x.numpy()
    names = shards.read(np.arange(5))["sample_id"].to_pylist()
    rows = rows_of(tmp_path / "out")
    assert list(rows) == sorted(names)
    found = np.array([rows[name]["vector"] for name in names], np.float32)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert rows["c2/05.jpg"]["source"] == "c2/05.jpg"
    assert rows["c2/05.jpg"]["class_name"] == "c2"


def test_the_manifest_tells_the_encoder_the_images_and_the_files(
    images: Path, pretrained: Pretrained, tmp_path: Path
) -> None:
    manifest = write(images, tmp_path / "out", pretrained)
    assert (manifest.num_rows, manifest.num_rejected) == (23, 0)
    assert [file.num_rows for file in manifest.files] == [10, 10, 3]
    assert manifest.encoder.digest == fingerprint(pretrained.encoder)
    assert (manifest.encoder.reference, manifest.encoder.run_id) == ("an encoder", "run 7")
    assert (manifest.encoder.num_features, manifest.encoder.image_px) == (256, 8)
    assert EmbeddingSet.open(str(tmp_path / "out")).manifest == manifest
    kind = pq.read_schema(tmp_path / "out" / "part-000000.parquet").field("vector").type
    assert kind == pa.list_(pa.float32(), 256)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "encoder", "manifest.json", *(file.file for file in manifest.files)
    }  # fmt: skip


def test_tars_and_parquet_are_embedded_as_they_are_stored(
    pretrained: Pretrained, tmp_path: Path
) -> None:
    """The same vectors as of files, each file of vectors from neighbouring images."""
    pictures = {f"{i:02d}.jpg": encoded(i) for i in range(23)}
    folder = write_folder(tmp_path / "folder", pictures)
    (tmp_path / "train.tar").write_bytes(tar_bytes(dict(reversed(pictures.items()))))
    table = pa.table({"image": pa.array(list(pictures.values()), pa.binary())})
    pq.write_table(table, tmp_path / "some.parquet", row_group_size=6)
    write(folder, tmp_path / "of-folder", pretrained)
    write(tmp_path / "train.tar", tmp_path / "of-tar", pretrained)
    manifest = write(tmp_path / "some.parquet", tmp_path / "of-parquet", pretrained)
    of_folder, of_tar = rows_of(tmp_path / "of-folder"), rows_of(tmp_path / "of-tar")
    assert {name: row["vector"] for name, row in of_tar.items()} == {
        name: row["vector"] for name, row in of_folder.items()
    }
    assert list(of_tar) == list(reversed(of_folder))
    of_parquet = rows_of(tmp_path / "of-parquet")
    assert list(of_parquet) == [f"some.parquet:{i:07d}" for i in range(23)]
    assert [r["vector"] for r in of_parquet.values()] == [r["vector"] for r in of_folder.values()]
    assert [file.num_rows for file in manifest.files] == [12, 11]  # whole row groups


def test_bad_images_are_listed_and_the_others_embedded(
    images: Path, pretrained: Pretrained, tmp_path: Path
) -> None:
    (images / "c1" / "01.jpg").write_bytes(encoded(1)[:-200])
    (images / "c2" / "05.jpg").write_text("no image at all")
    manifest = write(images, tmp_path / "out", pretrained)
    assert (manifest.num_rows, manifest.num_rejected) == (21, 2)
    lines = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").open()]
    assert [(line["sample_id"], line["source"]) for line in lines] == [
        ("c1/01.jpg", "c1/01.jpg"), ("c2/05.jpg", "c2/05.jpg")
    ]  # fmt: skip
    assert lines[1]["reason"] == "no image"
    assert not {"c1/01.jpg", "c2/05.jpg"} & set(rows_of(tmp_path / "out"))


def test_a_source_of_bad_images_alone_is_refused(pretrained: Pretrained, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "images", {"a.jpg": b"a story", "b.jpg": b"another"})
    with pytest.raises(DataError, match=r"No image of .* can be decoded; the first is 'a.jpg'"):
        write(folder, tmp_path / "out", pretrained)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_what_was_cut_short_is_continued_to_the_same_bytes(
    images: Path, pretrained: Pretrained, tmp_path: Path, count: int
) -> None:
    """Finished files are not written again; a half-written one is."""
    (images / "c1" / "01.jpg").write_text("no image at all")
    write(images, tmp_path / "whole", pretrained)
    cut = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        write(images, cut, pretrained, stop_after(count))
    with pytest.raises(DataError, match="holds no finished vectors"):
        EmbeddingSet.open(str(cut))
    finished = {path: path.stat() for path in cut.glob("part-*.parquet")}
    assert len(finished) == count
    (cut / f"part-{count:06d}.parquet").write_bytes(b"half a fi")
    done: list[Task] = []

    def counted(tasks: Sequence[Task]) -> Iterator[str]:
        done.extend(tasks)
        return one_after_the_other(tasks)

    write(images, cut, pretrained, counted)
    assert len(done) == 3 - count
    assert contents(cut) == contents(tmp_path / "whole")
    for path, before in finished.items():
        assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    write(images, cut, pretrained, stop_after(0))  # nothing is left to do
    assert contents(cut) == contents(tmp_path / "whole")


def test_vectors_of_another_encoder_or_other_images_are_left_alone(
    images: Path, pretrained: Pretrained, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        write(images, out, pretrained, stop_after(1))
    for state in ("unfinished vectors", "vectors"):
        before = contents(out)
        with pytest.raises(DataError, match=f"holds {state} of encoder="):
            write(images, out, new_encoder(seed=1))
        with pytest.raises(DataError, match=f"holds {state} of identity=images-"):
            write("digits:test", out, pretrained)
        with pytest.raises(DataError, match=f"holds {state} of precision=fp32, where bf16"):
            write(images, out, pretrained, precision="bf16")
        assert contents(out) == before
        write(images, out, pretrained)


def test_a_foreign_folder_is_left_alone(
    images: Path, pretrained: Pretrained, tmp_path: Path
) -> None:
    """Notes, another program's manifest, shards; and vectors are no place for shards."""
    for name, files in {
        "notes": {"notes.txt": b"mine"},
        "app": {"manifest.json": b'{"name": "an app"}'},
        "broken": {"manifest.json": b"{"},
    }.items():
        folder = Path(write_folder(tmp_path / name, files))
        with pytest.raises(DataError, match="is not empty"):
            write(images, folder, pretrained)
        assert contents(folder) == files
    write_shards(open_source(str(images)), str(tmp_path / "shards"), rows_per_row_group=5)
    with pytest.raises(DataError, match=r"its manifest\.json is of something else"):
        write(images, tmp_path / "shards", pretrained)
    write(images, tmp_path / "out", pretrained)
    with pytest.raises(DataError, match=r"its manifest\.json is of something else"):
        write_shards(open_source(str(images)), str(tmp_path / "out"), rows_per_row_group=5)


def test_an_encoder_that_was_exchanged_is_refused(
    images: Path, pretrained: Pretrained, tmp_path: Path
) -> None:
    manifest = write(images, tmp_path / "out", pretrained)
    write(images, tmp_path / "other", new_encoder(seed=1))
    weights = "encoder/encoder.safetensors"
    (tmp_path / "out" / weights).write_bytes((tmp_path / "other" / weights).read_bytes())
    load_encoder.cache_clear()
    with pytest.raises(CheckpointError, match="is not the one of its vectors"):
        load_encoder(str(tmp_path / "out"), manifest.encoder.digest, Computation())
    (tmp_path / "out" / weights).unlink()
    with pytest.raises(DataError, match=r"lacks encoder/encoder\.safetensors"):
        load_encoder(str(tmp_path / "out"), manifest.encoder.digest, Computation())


def test_settings_that_cannot_work_are_refused(images: Path, pretrained: Pretrained) -> None:
    with pytest.raises(SettingsError, match="rows_per_file=0 must be"):
        write(images, "unused", pretrained, rows_per_file=0)
    with pytest.raises(SettingsError, match="batch_size=0 must be"):
        write(images, "unused", pretrained, batch_size=0)
    with pytest.raises(SettingsError, match="workers=-1 must be"):
        build_pool(-1, "auto", Computation())


def test_a_file_has_neither_too_few_rows_nor_too_many() -> None:
    assert [usual_rows_per_file(n) for n in (1, 1000, 50_000, 10**8)] == [64, 64, 782, 4096]


def test_this_process_computes_with_all_its_cores() -> None:
    pool = build_pool(0, "cpu", Computation(batch_size=7))
    assert pool.run_all is one_after_the_other
    assert pool.computation == replace(Computation(batch_size=7), threads=pool.computation.threads)
    assert pool.computation.threads >= 1
