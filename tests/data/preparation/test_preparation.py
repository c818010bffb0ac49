"""What a preparation promises: nothing mixed, nothing lost, the same result however it went."""

import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from bt_ray.config import Pixels, override
from bt_ray.data.preparation.job import Treatment
from bt_ray.data.preparation.prepare import describe_data, prepare_data
from bt_ray.data.preparation.tasks import Task
from bt_ray.data.preparation.write import write_shards
from bt_ray.data.shards.manifest import SAMPLES, Manifest
from bt_ray.data.shards.shard_file import fit
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.sources import Source, open_source
from bt_ray.data.stream.batches import local_batches
from bt_ray.errors import DataError, SettingsError
from bt_ray.presets import preset
from tests.data.pictures import encoded, write_folder, write_tar

SKIP = Treatment(on_bad_image="skip", max_bad_rate=0.2)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two row groups of five."""
    monkeypatch.setattr("bt_ray.data.preparation.job._ROWS_PER_SHARD", 10)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Thirty-three images of three classes."""
    folder = tmp_path / "images"
    write_folder(folder, {f"c{i % 3}/{i:02d}.jpg": encoded(i) for i in range(33)})
    return folder


def write(
    source: str | Source, root: Path, treatment: Treatment | None = None, **more: Any
) -> Manifest:
    opened = open_source(source) if isinstance(source, str) else source
    return write_shards(
        opened, str(root), rows_per_row_group=5, treatment=treatment, **more
    ).manifest


def contents(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


def rows_of(root: Path, manifest: Manifest) -> list[dict[str, Any]]:
    return [row for s in manifest.shards for row in pq.read_table(root / s.file).to_pylist()]


def stop_after(count: int) -> Any:
    """Runs `count` tasks and no more, as a killed process does."""

    def run_all(tasks: Sequence[Task]) -> Iterator[str]:
        for number, task in enumerate(tasks):
            if number == count:
                raise KeyboardInterrupt
            yield task()

    return run_all


def test_the_manifest_tells_counts_checksums_and_settings(images: Path, tmp_path: Path) -> None:
    manifest = write(str(images), tmp_path / "out", Treatment(max_side_px=10))
    assert (manifest.num_rows, manifest.rows_per_class) == (33, (11, 11, 11))
    assert [shard.num_rows for shard in manifest.shards] == [10, 10, 10, 3]
    told = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert told["preparation"] == {
        "source": str(images), "order": "sha256(sample_id)", "max_side_px": 10,
        "resampling": "lanczos", "jpeg_quality": 95, "on_bad_image": "stop",
    }  # fmt: skip
    for shard in manifest.shards:
        content = (tmp_path / "out" / shard.file).read_bytes()
        assert hashlib.sha256(content).hexdigest() == shard.sha256
        groups = pq.ParquetFile(tmp_path / "out" / shard.file).metadata
        sizes = [groups.row_group(i).num_rows for i in range(groups.num_row_groups)]
        assert sizes == ([5, 5] if shard.num_rows == 10 else [3])
    rows = rows_of(tmp_path / "out", manifest)
    assert len({row["sample_id"] for row in rows}) == 33
    payload = sum(len(row["sample_id"]) + len(row["image"]) for row in rows)
    assert manifest.num_bytes == payload + 20 * 33
    assert ShardSet.open(str(tmp_path / "out")).manifest.digest == manifest.digest


@pytest.mark.parametrize("count", [0, 1, 3])
def test_what_was_cut_short_is_continued_to_the_same_bytes(
    images: Path, tmp_path: Path, count: int
) -> None:
    """Finished shards are not written again; a half-written one is."""
    whole = write(str(images), tmp_path / "whole")
    cut = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        write(str(images), cut, run_all=stop_after(count))
    assert not (cut / "manifest.json").exists()
    finished = {path: path.stat() for path in cut.glob("shard-*.parquet")}
    assert len(finished) == count
    (cut / f"shard-{count:05d}.parquet").write_bytes(b"half a sha")
    counts: list[tuple[str, int, int]] = []
    again = write(str(images), cut, on_progress=lambda *told: counts.append(told))
    assert again.digest == whole.digest
    assert contents(cut) == contents(tmp_path / "whole")
    for path, before in finished.items():
        assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert counts[0] == ("written", 10 * count, 33)
    assert counts[-1] == ("written", 33, 33)
    assert len(counts) == 5 - count


def test_shards_that_are_whole_are_not_written_again(images: Path, tmp_path: Path) -> None:
    """Even if the kill came between the manifest and the removal of the records."""
    first = write(str(images), tmp_path / "out")
    (tmp_path / "out" / "_unfinished").mkdir()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.*")}
    assert write(str(images), tmp_path / "out", run_all=stop_after(0)).digest == first.digest
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


def test_other_shards_and_other_things_are_left_alone(images: Path, tmp_path: Path) -> None:
    """No shard of another source or other settings gets between those that are there."""
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        write(str(images), out, run_all=stop_after(2))
    before = contents(out)
    with pytest.raises(DataError, match="holds unfinished shards of identity=images-"):
        write("digits:test", out)
    with pytest.raises(DataError, match="unfinished shards of max_side_px=None, where 10 is"):
        write(str(images), out, Treatment(max_side_px=10))
    with pytest.raises(DataError, match="unfinished shards of rows_per_row_group=5, where 7 is"):
        write_shards(open_source(str(images)), str(out), rows_per_row_group=7)
    assert contents(out) == before
    write(str(images), out)
    with pytest.raises(DataError, match="holds shards of identity=images-"):
        write("digits:test", out)
    foreign = tmp_path / "foreign"
    write_folder(foreign, {"manifest.json": b'{"name": "an app"}'})
    with pytest.raises(DataError, match=r"manifest\.json is of something else"):
        write(str(images), foreign)
    assert contents(foreign) == {"manifest.json": b'{"name": "an app"}'}


def test_a_changed_source_does_not_continue_another(images: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write(str(images), tmp_path / "out", run_all=stop_after(1))
    (images / "c0" / "00.jpg").write_bytes(encoded(77))
    with pytest.raises(DataError, match="unfinished shards of identity="):
        write(str(images), tmp_path / "out")


def break_two(images: Path) -> None:
    (images / "c1" / "01.jpg").write_bytes(encoded(1)[:-200])
    (images / "c2" / "05.jpg").write_text("no image at all")


def test_bad_images_are_left_out_listed_and_counted(images: Path, tmp_path: Path) -> None:
    """The rest fills its row groups without a gap, as if the bad ones had never been there."""
    break_two(images)
    with pytest.raises(DataError, match=r"'c./0.\.jpg' cannot be decoded"):
        write(str(images), tmp_path / "stopped")
    manifest = write(str(images), tmp_path / "out", SKIP)
    assert (manifest.num_rows, manifest.num_rejected) == (31, 2)
    assert [shard.num_rows for shard in manifest.shards] == [10, 10, 10, 1]
    assert manifest.rows_per_class == (11, 10, 10)
    lines = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").open()]
    assert [line["sample_id"] for line in lines] == ["c1/01.jpg", "c2/05.jpg"]
    assert [line["source"] for line in lines] == ["c1/01.jpg", "c2/05.jpg"]
    assert "truncated" in lines[0]["reason"].lower()
    assert lines[1]["reason"] == "no image"
    (images / "c1" / "01.jpg").unlink()
    (images / "c2" / "05.jpg").unlink()
    clean = write(str(images), tmp_path / "clean")
    assert [s.sha256 for s in clean.shards] == [s.sha256 for s in manifest.shards]


def test_too_many_bad_images_are_refused_before_anything_is_written(
    images: Path, tmp_path: Path
) -> None:
    break_two(images)
    with pytest.raises(DataError, match=r"2 of 33 images .* more than --max-bad-rate 0.06"):
        write(str(images), tmp_path / "out", Treatment(on_bad_image="skip", max_bad_rate=0.06))
    assert not list((tmp_path / "out").glob("shard-*"))
    assert write(str(images), tmp_path / "out", SKIP).num_rejected == 2
    with pytest.raises(DataError, match="holds these shards already, without 2 images"):
        write(str(images), tmp_path / "out")


@pytest.mark.parametrize("count", [1, 3, 5, 7])
def test_leaving_out_can_be_cut_short_and_continued(
    images: Path, tmp_path: Path, count: int
) -> None:
    """While images are looked at (four tasks), and while shards are written (four more)."""
    break_two(images)
    whole = write(str(images), tmp_path / "whole", SKIP)
    left = [count]

    def run_all(tasks: Sequence[Task]) -> Iterator[str]:
        for task in tasks:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            yield task()

    with pytest.raises(KeyboardInterrupt):
        write(str(images), tmp_path / "cut", SKIP, run_all=run_all)
    assert write(str(images), tmp_path / "cut", SKIP).digest == whole.digest
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_a_stop_at_a_bad_image_costs_nothing_that_is_finished(images: Path, tmp_path: Path) -> None:
    """The same folder goes on with --on-bad-image skip."""
    break_two(images)
    with pytest.raises(DataError, match="cannot be decoded"):
        write(str(images), tmp_path / "out")
    write(str(images), tmp_path / "out", SKIP)
    write(str(images), tmp_path / "fresh", SKIP)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


@pytest.mark.parametrize(
    ("mode", "kind", "kept"),
    [("RGB", "JPEG", "RGB"), ("L", "JPEG", "L"), ("CMYK", "JPEG", "RGB"), ("RGBA", "PNG", "RGB"),
     ("P", "GIF", "RGB"), ("1", "PNG", "RGB")],
)  # fmt: skip
def test_only_images_with_a_longer_side_above_the_limit_are_resized(
    mode: str, kind: str, kept: str
) -> None:
    """The longer side becomes the limit, the shape stays, and the rest keep their bytes."""
    buffer = io.BytesIO()
    Image.effect_noise((60, 40), 50).convert(mode).save(buffer, format=kind)
    assert fit(buffer.getvalue(), None) == (buffer.getvalue(), (60, 40))
    assert fit(buffer.getvalue(), 60) == (buffer.getvalue(), (60, 40))
    content, size = fit(buffer.getvalue(), 30)
    assert size == (30, 20)
    resized = Image.open(io.BytesIO(content))
    assert (resized.format, resized.size, resized.mode) == ("JPEG", (30, 20), kept)
    with Image.open(buffer) as original:
        wanted = io.BytesIO()
        base = original if mode == kept else original.convert("RGB")
        base.resize((30, 20), Image.Resampling.LANCZOS).save(wanted, format="JPEG", quality=95)
    assert content == wanted.getvalue()
    assert fit(buffer.getvalue(), 1)[1] == (1, 1)


def test_resized_images_are_rows_of_their_new_size(tmp_path: Path) -> None:
    small, tall = encoded(0, size=(20, 20)), encoded(1, size=(10, 80))
    write_folder(tmp_path / "images", {"small.jpg": small, "tall.jpg": tall})
    manifest = write(str(tmp_path / "images"), tmp_path / "out", Treatment(max_side_px=40))
    rows = {row["sample_id"]: row for row in rows_of(tmp_path / "out", manifest)}
    assert rows["small.jpg"]["image"] == small
    assert (rows["tall.jpg"]["width"], rows["tall.jpg"]["height"]) == (5, 40)


def test_settings_that_make_no_sense_are_refused() -> None:
    for settings in ({"max_side_px": 0}, {"max_bad_rate": 1.5}):
        with pytest.raises(SettingsError, match="must"):
            Treatment(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("schema", [1, 2, 3, 4])
def test_shards_of_earlier_schemas_are_read_as_ever(
    schema: int, images: Path, tmp_path: Path
) -> None:
    """Before 4 they know 8-bit RGB alone; before 3 they lack footers, in 1 two columns and more."""
    new = write(str(images), tmp_path / "new")
    old = tmp_path / "old"
    old.mkdir()
    for shard in new.shards:
        (old / shard.file).write_bytes((tmp_path / "new" / shard.file).read_bytes())
        if schema < 3:
            table = pq.read_table(tmp_path / "new" / shard.file, columns=SAMPLES.names)
            pq.write_table(table, old / shard.file, row_group_size=5)
    tree = json.loads((tmp_path / "new" / "manifest.json").read_text())
    tree["schema_version"] = schema
    new_names = "channels bit_depth orientation mean std num_measured num_turned"
    for name in new_names.split() * (schema < 4):
        del tree[name]
    for shard in tree["shards"]:
        del shard["rows_sha256"]
        if schema < 3:
            del shard["footer"]
        shard["num_bytes"] = (old / shard["file"]).stat().st_size
    if schema == 1:
        for name in ("rows_per_class", "num_rejected", "rejected_sha256", "preparation"):
            del tree[name]
        for shard in tree["shards"]:
            del shard["num_bytes"]
    text = json.dumps(tree, indent=2, ensure_ascii=False)
    (old / "manifest.json").write_text(text)
    shards = ShardSet.open(str(old))
    assert shards.manifest.to_json() == text  # so that its digest is the one that runs recorded
    assert shards.manifest.pixels == Pixels()
    assert (shards.manifest.mean is None) == (schema < 4)
    assert [shard.content for shard in shards.manifest.shards] == [
        shard.sha256 for shard in new.shards
    ]
    whole = range(7)
    assert shards.read(whole).equals(ShardSet.open(str(tmp_path / "new")).read(whole))  # type: ignore[arg-type]


def test_the_batches_of_all_sources_of_the_same_images_are_the_same(tmp_path: Path) -> None:
    """However the images came, what is trained on follows from their names and bytes."""
    told = {f"{i:02d}.jpg": encoded(i, size=(20, 20)) for i in range(24)}
    write(write_folder(tmp_path / "images", told), tmp_path / "a")
    write(write_tar(tmp_path / "x.tar", told), tmp_path / "b")
    settings = override(
        preset("digits"), {"data.global_batch": 8, "data.train": str(tmp_path / "a")}
    )
    batches = [
        list(local_batches(settings, ShardSet.open(str(tmp_path / name)), start=0, stop=3,
                           device=torch.device("cpu")))
        for name in "ab"
    ]  # fmt: skip
    for a, b in zip(*batches, strict=True):
        assert torch.equal(a.views[0], b.views[0])
        assert torch.equal(a.views[1], b.views[1])


@pytest.mark.parametrize("root", ["file/below", "/proc/nowhere/shards"])
def test_a_destination_that_cannot_be_written_is_named(
    images: Path, tmp_path: Path, root: str
) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="cannot be written"):
        write(str(images), tmp_path / root)


def test_a_full_disk_is_said_and_what_is_finished_is_kept(images: Path, tmp_path: Path) -> None:
    """Really full: the destination is a file system of a few kilobytes, in a mount of its own."""
    out = tmp_path / "small"
    out.mkdir()
    code = f"""
import os, sys
import bt_ray.data.preparation.job as job
from bt_ray.data.preparation.write import write_shards
from bt_ray.data.sources import open_source
job._ROWS_PER_SHARD = 10
source, root = open_source({str(images)!r}), {str(out / "shards")!r}
ballast = {str(out / "ballast")!r}
free = os.statvfs({str(out)!r})
open(ballast, "wb").write(bytes(free.f_bavail * free.f_frsize - 36_000))
try:
    write_shards(source, root, rows_per_row_group=5)
except Exception as error:
    print(type(error).__name__, error)
print(sorted(name for name in os.listdir(root) if name.endswith(".parquet")))
kept = os.stat(root + "/shard-00000.parquet").st_mtime_ns
os.remove(ballast)
print(write_shards(source, root, rows_per_row_group=5).manifest.num_rows)
print(os.stat(root + "/shard-00000.parquet").st_mtime_ns == kept)
"""
    (tmp_path / "fill.py").write_text(code)
    mount = f"mount -t tmpfs -o size=400k none {out} && exec {sys.executable} {tmp_path}/fill.py"
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3],
        env={"PYTHONPATH": str(Path(__file__).parents[3]), "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"},
    )  # fmt: skip
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"needs a mount of its own: {done.stderr.strip()}")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("DataError"), done
    assert "No space left on device" in lines[0]
    assert "the same command continues" in lines[0]
    assert lines[2:] == ["33", "True"]


def test_a_source_that_goes_away_stops_in_a_sentence_and_loses_nothing(
    images: Path, tmp_path: Path
) -> None:
    """The archive is cut while it is read; whole again, it is continued."""
    told = {path.name: path.read_bytes() for path in sorted(images.rglob("*.jpg"))}
    archive = Path(write_tar(tmp_path / "x.tar", told))
    source, content, status = open_source(str(archive)), archive.read_bytes(), archive.stat()

    def run_all(tasks: Sequence[Task]) -> Iterator[str]:
        for number, task in enumerate(tasks):
            if number == 2:
                archive.write_bytes(content[:600])
            yield task()

    with pytest.raises(DataError, match=r"x\.tar cannot be read any more .*has become shorter"):
        write(source, tmp_path / "out", run_all=run_all)
    assert len(list((tmp_path / "out" / "_unfinished").glob("shard-*.json"))) == 2
    archive.write_bytes(content)
    os.utime(archive, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert write(str(archive), tmp_path / "out").num_rows == 33


def test_a_run_takes_an_archive_as_it_takes_a_folder(tmp_path: Path) -> None:
    """data.train may name any source; its shards are written below the storage."""
    told = {f"{i:02d}.jpg": encoded(i) for i in range(20)}
    settings = override(preset("digits"), {
        "data.train": write_tar(tmp_path / "x.tar", told), "data.test": None,
        "storage": str(tmp_path / "runs"),
    })  # fmt: skip
    root = prepare_data(settings).data.train
    assert Path(root).parent == tmp_path / "runs" / "shards"
    assert ShardSet.open(root).manifest.num_rows == 20
    assert prepare_data(settings).data.train == root
    described, _ = describe_data(settings)
    assert described.bytes_to_write == 0
