"""From a storage that answers slowly, many row groups are asked for at once, and few times."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bt_ray.data.location import MANIFEST, locate
from bt_ray.data.shards.manifest import COLUMNS, Manifest, Shard, pack_footer
from bt_ray.data.shards.shard_set import ShardSet
from tests.object_store import CREDENTIALS, object_store
from tests.slow_proxy import slow_proxy

pytestmark = pytest.mark.run

_GROUPS, _ROWS, _IMAGE_BYTES, _SHARDS = 16, 32, 128 * 1024, 4


def write_noise(folder: Path) -> None:
    """64 MB that look like images, in four shards of four row groups."""
    generator = np.random.default_rng(0)
    shards = []
    for number in range(_SHARDS):
        file = folder / f"shard-{number:05d}.parquet"
        with pq.ParquetWriter(file, COLUMNS, compression={"image": "none"}) as writer:
            for _ in range(_GROUPS // _SHARDS):
                texts = ["x"] * _ROWS
                writer.write_table(pa.table(
                    {
                        "sample_id": texts,
                        "image": [generator.bytes(_IMAGE_BYTES) for _ in range(_ROWS)],
                        "label": [0] * _ROWS, "width": [1] * _ROWS, "height": [1] * _ROWS,
                        "class_name": texts, "source": texts,
                    },
                    schema=COLUMNS,
                ))  # fmt: skip
        rows, size = _ROWS * _GROUPS // _SHARDS, file.stat().st_size
        footer = pack_footer(pq.read_metadata(file))
        shards.append(
            Shard(
                file=file.name, num_rows=rows, sha256=str(number), num_bytes=size, footer=footer
            )
        )  # fmt: skip
    num_rows = _ROWS * _GROUPS
    manifest = Manifest(
        schema_version=3, identity="noise", classes=("x",), num_rows=num_rows,
        num_bytes=num_rows * _IMAGE_BYTES, rows_per_row_group=_ROWS, shards=tuple(shards),
    )  # fmt: skip
    (folder / MANIFEST).write_text(manifest.to_json())


def test_a_window_is_fetched_by_many_requests_at_once_and_footers_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    write_noise(tmp_path)
    expected = ShardSet.open(str(tmp_path)).read(np.arange(_GROUPS))
    with object_store("far") as options:
        for file in tmp_path.iterdir():
            filesystem, path = locate(f"s3://far/{file.name}?{options}")
            with filesystem.open_output_stream(path) as stream:
                stream.write(file.read_bytes())
        port = int(options.partition("127.0.0.1:")[2].partition("&")[0])
        with slow_proxy(port, delay_s=0.04, bytes_per_s=8e6) as proxy:
            shards = ShardSet.open(f"s3://far?endpoint_override=127.0.0.1:{proxy.port}&scheme=http")
            asked = []
            for _ in range(2):
                proxy.requests.clear()
                assert shards.read(np.arange(_GROUPS)).equals(expected)
                asked.append(len(proxy.requests))
    assert proxy.most_under_way >= 8
    assert asked[0] == asked[1], "the manifest says where row groups lie"
    assert asked[1] <= 3 * _GROUPS, "to open each row group's file, and for its columns"
