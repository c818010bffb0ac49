"""An image that cannot be decoded is replaced, the same way by everyone; too many end the run."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from mlflow import MlflowClient

from bt_ray.config import Settings, override
from bt_ray.data.location import MANIFEST
from bt_ray.data.preparation.write import write_shards
from bt_ray.data.shards.manifest import pack_footer
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.sources import open_source
from bt_ray.data.stream.batches import Batch, local_batches
from bt_ray.data.stream.plan import build_plan
from bt_ray.data.stream.spares import find_spares
from bt_ray.errors import DataError, SettingsError, UnreadableImagesError
from bt_ray.tracking.tracker import read_history
from bt_ray.training.launch import pretrain
from bt_ray.training.quarantine import Quarantine, describe_images
from bt_ray.training.recorder import FolderRecorder, read_quarantine
from bt_ray.training.stop import StopRequest
from tests.training.test_loop import MemoryContext

BROKEN = (3, 200)


def break_images(root: str, rows: tuple[int, ...], content: bytes = b"no image") -> str:
    """Overwrites images of shards of one file, as a broken copy of a data set has them."""
    shards = ShardSet.open(root)
    [shard] = shards.manifest.shards
    table = pq.read_table(Path(root) / shard.file)
    images = [content if i in rows else image for i, image in enumerate(table["image"].to_pylist())]
    table = table.set_column(table.column_names.index("image"), "image", pa.array(images))
    file, manifest = Path(root) / shard.file, Path(root) / MANIFEST
    pq.write_table(table, file, row_group_size=shards.manifest.rows_per_row_group)
    tree = json.loads(manifest.read_text())
    tree["shards"][0]["num_bytes"] = file.stat().st_size
    tree["shards"][0]["footer"] = pack_footer(pq.read_metadata(file))
    manifest.write_text(json.dumps(tree))
    return root


@pytest.fixture
def broken(tmp_path: Path) -> str:
    root = str(tmp_path / "broken")
    write_shards(open_source("digits:test"), root, rows_per_row_group=64)
    return break_images(root, BROKEN)


@pytest.fixture
def settings(small_settings: Settings, broken: str) -> Settings:
    return override(small_settings, {"data.train": broken, "scaling.workers": 0})


def batches(settings: Settings, start: int = 0, rank: int = 0, workers: int = 1) -> list[Batch]:
    shards = ShardSet.open(settings.data.train)
    return list(local_batches(
        settings, shards, start=start, stop=6, device=torch.device("cpu"), rank=rank,
        world_size=workers,
    ))  # fmt: skip


def test_only_the_broken_images_are_replaced_and_each_is_told(
    settings: Settings, small_settings: Settings
) -> None:
    whole = batches(small_settings)
    plan = build_plan(settings, ShardSet.open(settings.data.train).manifest)
    told = set[int]()
    for step, (got, expected) in enumerate(zip(batches(settings), whole, strict=True)):
        rows = plan.batch(step)
        told |= set(got.replaced)
        assert set(got.replaced) == set(rows) & set(BROKEN)
        for view, intact in zip(got.views, expected.views, strict=True):
            same = (view == intact).flatten(1).all(dim=1).numpy()
            assert (same == ~np.isin(rows, BROKEN)).all()
        assert (got.digest == expected.digest) == (not got.replaced)
    assert told == set(BROKEN)


@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize("start", [0, 3])
def test_workers_and_restarts_do_not_change_what_stands_in(
    settings: Settings, workers: int, start: int
) -> None:
    alone = batches(settings)[start:]
    parts = [batches(settings, start, rank, workers) for rank in range(workers)]
    for step, expected in enumerate(alone):
        for view in (0, 1):
            got = torch.cat([part[step].views[view] for part in parts])
            assert torch.equal(got, expected.views[view])
        assert sum(part[step].digest for part in parts) % 2**64 == expected.digest % 2**64


def test_spares_are_others_and_a_broken_one_is_passed_over(settings: Settings) -> None:
    shards = ShardSet.open(settings.data.train)
    plan = build_plan(settings, shards.manifest)
    place = 5
    spares = [spare.sample for spare in find_spares(shards, plan, 1, place)]
    assert len(set(spares)) == len(spares) == 16
    assert plan.batch(1)[place] not in spares
    break_images(settings.data.train, (*BROKEN, int(plan.batch(1)[place]), spares[0]))
    [before, after] = [batches(settings)[1] for _ in range(2)]
    assert int(plan.batch(1)[place]) in before.replaced
    assert torch.equal(before.views[0], after.views[0])


def test_nothing_readable_in_a_window_is_an_error(settings: Settings) -> None:
    break_images(settings.data.train, tuple(range(360)))
    with pytest.raises(DataError, match=r"row \d+ cannot be decoded .* nor can those"):
        batches(settings)


@pytest.mark.run
def test_a_run_counts_and_lists_what_it_replaced(settings: Settings) -> None:
    summary = pretrain(settings, register=False)
    run = Path(summary.paths["run"])
    lines = (run / "quarantine.jsonl").read_text().splitlines()
    assert set(json.loads(lines[0])) == {"row", "sample_id", "reason"}
    listed = read_quarantine(run / "quarantine.jsonl")
    assert {line["row"] for line in listed} <= set(BROKEN)
    assert len(listed) == len({line["row"] for line in listed}) > 0
    assert all(line["reason"] == "no image" for line in listed)
    counted = read_history(run / "metrics.jsonl")["data/replaced_images"]
    assert 2 <= counted[6] <= 6
    assert any("could not be decoded" in warning for warning in summary.warnings)
    metric = MlflowClient(summary.paths["mlflow"]).get_run(summary.run_id).data.metrics
    assert metric["data/replaced_images"] == counted[6]


@pytest.mark.run
@pytest.mark.parametrize("photometry", ["loader", "device"])
def test_a_resumed_run_with_broken_images_ends_bit_for_bit_alike(
    settings: Settings, photometry: str
) -> None:
    settings = override(settings, {"views.photometry": photometry})
    whole = pretrain(override(settings, {"name": "whole"}), register=False)
    cut = override(settings, {"name": "cut", "scaling.max_hours": 1e-9})
    assert pretrain(cut, register=False).steps < 6
    resumed = pretrain(override(cut, {"scaling.max_hours": None}), register=False)
    files = [Path(s.paths["checkpoint"]) / "encoder.safetensors" for s in (whole, resumed)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert resumed.stream_digest == whole.stream_digest


@pytest.mark.run
def test_one_broken_image_ends_a_run_that_allows_none_and_it_goes_on_once_more_are_allowed(
    settings: Settings,
) -> None:
    with pytest.raises(UnreadableImagesError, match=r"quarantine\.jsonl .* data\.max_bad_rate"):
        pretrain(override(settings, {"data.max_bad_rate": 0.0}), register=False)
    run = Path(settings.storage) / settings.name
    assert read_quarantine(run / "quarantine.jsonl")
    [record] = MlflowClient(f"sqlite:///{settings.storage}/mlflow.db").search_runs(["1"])
    assert record.info.status == "FAILED"
    assert pretrain(override(settings, {"data.max_bad_rate": 0.5}), register=False).steps == 6


def test_a_rate_is_told_from_a_window_and_not_only_from_neighbours(
    settings: Settings, tmp_path: Path
) -> None:
    """Batches of 128 and a rate of 1 %: of 1,000 images, 8 steps, ten may be broken."""
    watched = override(settings, {"data.max_bad_rate": 0.01})
    context = MemoryContext(tmp_path)
    quarantine = Quarantine(watched, context)
    for step in range(1, 100):  # one in every second step, never ten within eight
        quarantine.look([step] if step % 2 else [])
        quarantine.check(step)
    for step in range(100, 102):
        quarantine.look([1, 2, 3])
        quarantine.check(step)
    quarantine.look([1, 2])
    with pytest.raises(UnreadableImagesError, match="11 of the last 1,024 images"):
        quarantine.check(102)
    assert len(context.quarantined) == 50 + 3 + 3 + 2, "and each of them is listed"


def test_a_rate_is_a_share(settings: Settings) -> None:
    with pytest.raises(SettingsError, match=r"data\.max_bad_rate=1\.5 must lie between 0 and 1"):
        override(settings, {"data.max_bad_rate": 1.5})


def test_a_list_whose_last_line_was_cut_short_is_gone_on_with(
    settings: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "quarantine.jsonl"
    images = describe_images(settings.data.train, [1, 2, 3])
    FolderRecorder(tmp_path, StopRequest()).list_images(images[:2])
    file.write_bytes(file.read_bytes()[:-9])
    assert [image["row"] for image in read_quarantine(file)] == [1]
    again = FolderRecorder(tmp_path, StopRequest())
    for _ in range(2):
        again.list_images(images)
    assert [image["row"] for image in read_quarantine(file)] == [1, 2, 3]
