"""From and to an object store, over HTTP: a server that speaks S3, in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.fs
import pytest
import torch

from bt_ray.config import override
from bt_ray.data.location import locate
from bt_ray.data.preparation.prepare import prepare_data
from bt_ray.data.preparation.write import write_shards
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.sources import open_source
from bt_ray.data.stream.batches import local_batches
from bt_ray.errors import DataError
from bt_ray.presets import preset
from tests.data.pictures import encoded, imagenet_train
from tests.data.preparation.test_preparation import stop_after
from tests.object_store import CREDENTIALS, object_store

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def options() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        with object_store("images") as found:
            yield found


def upload(file: Path, uri: str) -> str:
    filesystem, path = locate(uri)
    with filesystem.open_output_stream(path) as stream:
        stream.write(file.read_bytes())
    return uri


def names_below(uri: str) -> set[str]:
    filesystem, path = locate(uri)
    infos = filesystem.get_file_info(
        pyarrow.fs.FileSelector(path, recursive=True, allow_not_found=True)
    )
    return {info.path.removeprefix(f"{path}/") for info in infos}


def test_an_archive_in_the_store_becomes_shards_in_the_store(options: str, tmp_path: Path) -> None:
    """By the command; the bytes are those of a preparation here, and so is what is trained on."""
    imagenet_train(tmp_path / "train.tar", classes=4, each=20)
    source = upload(tmp_path / "train.tar", f"s3://images/in/train.tar?{options}")
    root = f"s3://images/out/a?{options}"
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.prepare", source, root, "--rows-per-row-group=16"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert names_below(root) == {"manifest.json", "shard-00000.parquet"}
    here = write_shards(
        open_source(str(tmp_path / "train.tar")), str(tmp_path / "here"), rows_per_row_group=16
    )
    there = ShardSet.open(root)
    assert json.loads(done.stdout)["digest"] == there.manifest.digest
    assert there.manifest.shards == here.manifest.shards
    assert there.manifest.preparation is not None
    assert there.manifest.preparation.source == "s3://images/in/train.tar"  # no address, no keys
    settings = override(preset("digits"), {"data.global_batch": 16, "views.image_px": 8})
    runs = [
        list(local_batches(
            prepare_data(override(settings, {"data.train": shards.root, "data.test": None})),
            shards, start=0, stop=7, device=torch.device("cpu"),
        ))
        for shards in (here, there)
    ]  # fmt: skip
    assert len(runs[1]) == 7
    for a, b in zip(*runs, strict=True):
        assert torch.equal(a.views[0], b.views[0])
        assert torch.equal(a.views[1], b.views[1])


def test_a_folder_and_a_set_of_archives_in_the_store_are_sources(options: str) -> None:
    filesystem, path = locate(f"s3://images/folder?{options}")
    for name, content in {"dog/a.jpg": encoded(0), "cat/b.jpg": encoded(1)}.items():
        with filesystem.open_output_stream(f"{path}/{name}") as stream:
            stream.write(content)
    source = open_source(f"s3://images/folder?{options}")
    assert source.classes == ("cat", "dog")
    assert {i.sample_id: i.encoded for i in source.read()} == {
        "dog/a.jpg": encoded(0),
        "cat/b.jpg": encoded(1),
    }


def test_what_was_cut_short_in_the_store_is_continued_there(
    options: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bt_ray.data.preparation.job._ROWS_PER_SHARD", 10)
    imagenet_train(tmp_path / "train.tar")
    source, root = open_source(str(tmp_path / "train.tar")), f"s3://images/out/cut?{options}"
    with pytest.raises(KeyboardInterrupt):
        write_shards(source, root, rows_per_row_group=5, run_all=stop_after(2))
    with pytest.raises(DataError, match="'s3://images/out/cut' is not empty: it holds unfinished"):
        write_shards(open_source("digits"), root, rows_per_row_group=5)
    filesystem, path = locate(root)
    kept = filesystem.get_file_info(f"{path}/shard-00001.parquet").mtime
    written = write_shards(source, root, rows_per_row_group=5)
    assert filesystem.get_file_info(f"{path}/shard-00001.parquet").mtime == kept
    assert names_below(root) == {"manifest.json", *(f"shard-0000{i}.parquet" for i in range(3))}
    here = write_shards(source, str(tmp_path / "here"), rows_per_row_group=5)
    assert written.manifest.digest == here.manifest.digest


def test_large_shards_go_up_in_several_parts(options: str) -> None:
    """Parts of an upload have 5 MB at least; a shard of 24 MB comes back as it was."""
    from dataclasses import replace

    source = open_source("digits:test")
    noise = np.random.default_rng(0).integers(0, 256, (360, 65_536), dtype=np.uint8)
    images = [image.encoded + noise[i].tobytes() for i, image in enumerate(source.read())]
    position = source.entries.schema.get_field_index("encoded")
    large = replace(
        source, entries=source.entries.set_column(position, "encoded", pyarrow.array(images))
    )
    shards = write_shards(large, f"s3://images/out/large?{options}", rows_per_row_group=64)
    assert shards.manifest.num_bytes > 20 * 2**20
    assert shards.read(np.arange(6))["image"].to_pylist() == images


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("s3://images/nothing.tar?{}", "There is no file 's3://images/nothing.tar'"),
        ("s3://images/nothing?{}", "There is no folder 's3://images/nothing'"),
        ("s3://absent-bucket/a?{}", "There is no folder 's3://absent-bucket/a'"),
        ("ftp://x/y", "'ftp://x/y' cannot be opened"),
    ],
)
def test_what_is_not_there_is_said_without_options(
    options: str, source: str, sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence) as caught:
        open_source(source.format(options))
    assert "endpoint" not in str(caught.value)


def test_a_bucket_that_is_not_there_cannot_be_written_to(options: str) -> None:
    with pytest.raises(DataError, match="'s3://absent-bucket/out' cannot be written"):
        write_shards(
            open_source("digits:test"), f"s3://absent-bucket/out?{options}", rows_per_row_group=64
        )
