"""Windows are cut into chunks and rows without a gap, and may hold more than 2 GiB."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bt_ray.config import Settings, override
from bt_ray.data.location import MANIFEST
from bt_ray.data.shards.manifest import COLUMNS, Manifest, Shard
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.ingest import Reader, _unpack, num_readers, steps_of_a_row
from bt_ray.data.stream.plan import Plan, build_plan, chunks
from bt_ray.data.stream.window import HeldWindow, parts
from bt_ray.presets import preset


@pytest.fixture
def plan(small_settings: Settings) -> Plan:
    """An epoch of eleven windows of a step each: the last one holds two."""
    shards = ShardSet.open(small_settings.data.train)
    whole = build_plan(override(small_settings, {"data.global_batch": 32}), shards.manifest)
    return replace(whole, window_row_groups=1)


@pytest.mark.parametrize("most_steps", [1, 2, 3, 8, 1000])
@pytest.mark.parametrize(("start", "stop"), [(0, 40), (3, 17), (5, 6), (7, 7)])
def test_chunks_are_whole_windows_without_a_gap(
    plan: Plan, start: int, stop: int, most_steps: int
) -> None:
    found = list(chunks(plan, start, stop, most_steps))
    assert [step for first, last in found for step in range(first, last)] == [*range(start, stop)]
    edges = {span.first_step for span in plan.spans(start, stop)} | {start, stop}
    for number, (first, last) in enumerate(found):
        assert {first, last} <= edges
        windows = len(list(plan.spans(first, last)))
        assert windows == 1 or (last - first <= most_steps and number > 0)


@pytest.mark.parametrize("slowly", [True, False])
@pytest.mark.parametrize("most_steps", [1, 3, 8, 64])
@pytest.mark.parametrize(("start", "stop"), [(0, 1), (5, 16), (0, 100), (4, 4)])
def test_parts_have_no_gap_and_begin_with_one_step_where_they_must(
    start: int, stop: int, most_steps: int, slowly: bool
) -> None:
    found = list(parts(start, stop, most_steps, slowly=slowly))
    assert [step for first, last in found for step in range(first, last)] == [*range(start, stop)]
    assert all(0 < last - first <= most_steps for first, last in found)
    if slowly and found:
        assert found[0] == (start, start + 1)


def test_a_row_is_worth_seconds_and_has_a_bound_in_bytes() -> None:
    """32 workers at 224 px: eleven steps of 64 images, 212 MB; at 16 px 2,048 images."""
    large = override(preset("imagenet_1000"), {"scaling.workers": 32, "data.global_batch": 2048})
    assert steps_of_a_row(large) == 11
    assert steps_of_a_row(override(large, {"views.image_px": 16})) == 32
    assert steps_of_a_row(override(large, {"scaling.workers": 1})) == 1


def test_readers_follow_what_gpus_take(small_settings: Settings) -> None:
    manifest = ShardSet.open(small_settings.data.train).manifest
    photographs = replace(manifest, num_rows=1_281_167, num_bytes=1_281_167 * 110_000)
    large = override(small_settings, {"scaling.workers": 32})
    assert num_readers(small_settings, manifest) == 1
    assert num_readers(large, photographs) == 4
    assert num_readers(override(large, {"scaling.workers": 64}), photographs) == 8


@pytest.mark.parametrize("workers", [1, 4])
def test_rows_hold_each_workers_part_in_the_order_of_the_workers(
    small_settings: Settings, workers: int
) -> None:
    shards = ShardSet.open(small_settings.data.train)
    plan = build_plan(small_settings, shards.manifest)
    reader = Reader(shards, plan, workers=workers, start=1, most_steps=3)
    seen = list[tuple[int, int]]()
    for start, stop in chunks(plan, 1, 7, 3):
        for row in reader(pa.table({"start": [start], "stop": [stop]})):
            table = _unpack(row)
            for step in np.unique(table["step"].to_numpy()):
                part = table.filter(pa.compute.equal(table["step"], step))
                slots = part["slot"].to_numpy()
                assert part["row"].to_pylist() == plan.batch(int(step))[slots].tolist()
                seen.append((int(step), int(slots[0]) * workers // plan.global_batch))
    assert sorted(seen) == [(step, rank) for step in range(1, 7) for rank in range(workers)]
    assert seen[:workers] == [(1, rank) for rank in range(workers)], "one step to begin with"


_ROWS, _IMAGE_BYTES, _GROUP = 2112, 1_170_000, 176


@pytest.fixture
def large_images(tmp_path: Path) -> ShardSet:
    """2.3 GiB of images in memory: one image, in two megabytes of a file."""
    image = np.random.default_rng(0).bytes(_IMAGE_BYTES)
    group = pa.table(
        {
            "sample_id": ["x"] * _GROUP, "image": [image] * _GROUP, "label": [0] * _GROUP,
            "width": [1] * _GROUP, "height": [1] * _GROUP, "class_name": ["x"] * _GROUP,
            "source": ["x"] * _GROUP,
        },
        schema=COLUMNS,
    )  # fmt: skip
    file = tmp_path / "shard-00000.parquet"
    with pq.ParquetWriter(
        file, COLUMNS, dictionary_pagesize_limit=4 * 2**20, write_page_checksum=True
    ) as writer:
        for _ in range(_ROWS // _GROUP):
            writer.write_table(group)
    assert file.stat().st_size < 2**25
    shard = Shard(file=file.name, num_rows=_ROWS, sha256="", num_bytes=file.stat().st_size)
    manifest = Manifest(
        schema_version=2, identity="large", classes=("x",), num_rows=_ROWS,
        num_bytes=_ROWS * _IMAGE_BYTES, rows_per_row_group=_GROUP, shards=(shard,),
    )  # fmt: skip
    (tmp_path / MANIFEST).write_text(manifest.to_json())
    return ShardSet.open(str(tmp_path))


@pytest.mark.slow
def test_a_batch_may_have_more_than_2_gib_of_images(large_images: ShardSet) -> None:
    plan = Plan(_ROWS, _GROUP, _ROWS, 0, _ROWS // _GROUP)
    window = HeldWindow.read(large_images, plan, 0)
    assert window.table["image"].nbytes > 2.3 * 2**30
    [row] = Reader(large_images, plan, workers=1, start=0, most_steps=1)(
        pa.table({"start": [0], "stop": [1]})
    )
    images = _unpack(row)["image"]
    assert len(images) == _ROWS
    assert images[_ROWS - 1].as_buffer().size == _IMAGE_BYTES
