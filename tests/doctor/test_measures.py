"""What the doctor measures on this machine: storage, images, the node itself, time limits."""

import json
import os
import resource
import time
from pathlib import Path

import pytest

from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.doctor import node, storage
from bt_ray.doctor.images import measure_images
from bt_ray.doctor.node import look_at_node, memory_bytes
from bt_ray.doctor.storage import (
    is_new,
    measure_storage,
    remove_trial,
    trial_folder,
    unseen_markers,
)
from bt_ray.doctor.within import Within


@pytest.fixture(autouse=True)
def _small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_CHUNKS", 2)


def test_a_trial_measures_and_leaves_nothing(tmp_path: Path) -> None:
    runs = tmp_path / "not" / "there"
    new = is_new(str(runs))
    folder = trial_folder(str(runs), "1")
    facts = measure_storage(folder, "10.0.0.2")
    assert facts.fault is None
    assert facts.whole
    assert min(facts.write_mb_s or 0, facts.read_mb_s or 0, facts.small_write_ms or 0) > 0
    assert unseen_markers(folder, ("10.0.0.2", "10.0.0.3")) == ("10.0.0.3",)
    remove_trial(folder, new)
    assert not runs.exists()


def test_a_trial_leaves_a_storage_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    folder = trial_folder(str(tmp_path), "1")
    measure_storage(folder, "a")
    remove_trial(folder, is_new(str(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_options_of_a_uri_stay_at_its_end() -> None:
    assert trial_folder("s3://b/runs/?scheme=http", "1") == "s3://b/runs/.doctor-1?scheme=http"


def test_what_cannot_be_written_to_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    assert "file" in str(measure_storage(trial_folder(str(tmp_path / "file"), "1"), "a").fault)


def test_a_storage_that_changes_bytes_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_read", lambda stream, size: stream.read(size)[::-1])
    assert not measure_storage(trial_folder(str(tmp_path), "1"), "a").whole


def test_a_slow_storage_is_measured_by_what_was_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_LIMIT_S", 0.0)
    monkeypatch.setattr(storage, "_CHUNKS", 1000)
    facts = measure_storage(trial_folder(str(tmp_path), "1"), "a")
    assert facts.whole
    assert facts.write_mb_s


def test_images_are_read_where_they_lie(tmp_path: Path, digits_shards: ShardSet) -> None:
    assert measure_images(digits_shards.root).kind == "shards"
    assert measure_images("digits:test").kind == "built in"
    assert measure_images(str(tmp_path)).fault == "there is no file in it"
    assert measure_images(str(tmp_path / "absent")).fault == "nothing is there"
    assert "cannot be opened" in str(measure_images("nfs4://host/images").fault)
    (tmp_path / "a").mkdir()
    for name in ("a/one.jpg", "two.tar"):
        (tmp_path / name).write_bytes(b"bytes")
    assert measure_images(str(tmp_path)).num_files == 2
    assert measure_images(str(tmp_path / "two.tar")).num_files == 1
    assert measure_images(str(tmp_path / "{0..3}.tar")).fault == "nothing is there"


def test_a_missing_shard_is_a_fault(tmp_path: Path, digits_shards: ShardSet) -> None:
    manifest = (Path(digits_shards.root) / "manifest.json").read_text()
    (tmp_path / "manifest.json").write_text(manifest)
    first = json.loads(manifest)["shards"][0]["file"]
    assert first in str(measure_images(str(tmp_path)).fault)


def test_this_machine_is_looked_at() -> None:
    facts = look_at_node("here", "127.0.0.1", None, {"storage": "/absent/runs"})
    assert facts.open_files == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert facts.interface == "lo"
    assert facts.versions["bt_ray"].startswith("0.")
    assert [disk.purpose for disk in facts.disks] == ["temporary files", "storage"]
    assert all(disk.free_bytes <= disk.total_bytes for disk in facts.disks)


@pytest.mark.parametrize(
    "files",
    [{"memory.max": "1000000\n"}, {"memory/memory.limit_in_bytes": "1000000"}],
)
def test_a_containers_memory_counts(tmp_path: Path, files: dict[str, str]) -> None:
    _write(tmp_path, files)
    assert memory_bytes(tmp_path) == 1_000_000


@pytest.mark.parametrize(
    "files",
    [{"memory.max": "max"}, {"memory/memory.limit_in_bytes": "9223372036854771712"}, {}],
)
def test_a_container_without_a_limit_has_the_machines_memory(
    tmp_path: Path, files: dict[str, str]
) -> None:
    _write(tmp_path, files)
    assert memory_bytes(tmp_path) > 10**8


def test_a_containers_limit_of_processes_counts(tmp_path: Path) -> None:
    _write(tmp_path, {"pids.max": "100", "pids.current": "40"})
    assert node.free_processes(tmp_path) == 60


def _write(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)


def test_a_function_that_hangs_is_ended() -> None:
    began = time.monotonic()
    hanging: Within[None] = Within(time.sleep, 60)
    assert hanging.result(0.5) is None
    assert time.monotonic() - began < 20
    assert Within(os.getpid).result(20) not in (None, os.getpid())


def test_a_function_that_dies_has_no_answer() -> None:
    assert Within(os._exit, 3).result(20) is None
