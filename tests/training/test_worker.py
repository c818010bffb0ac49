"""The loop's context in a Ray Train worker, as far as it needs no cluster."""

import errno
import json
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pyarrow.fs import LocalFileSystem

from bt_ray.errors import RunFailedError, StorageError, StorageRefusedError
from bt_ray.storage.store import Store
from bt_ray.tracking.snapshots import read_snapshots
from bt_ray.tracking.tracker import MemoryTracker, NullTracker
from bt_ray.training import worker
from bt_ray.training.recorder import FolderRecorder
from bt_ray.training.stop import StopRequest
from bt_ray.training.worker import RayContext


def recorder(folder: Path) -> FolderRecorder:
    return FolderRecorder(folder, StopRequest())


def test_of_all_workers_the_first_writes_the_arrays(tmp_path: Path) -> None:
    """Each brings an array of its own here, so that the file says whose it is."""
    for rank in (0, 1, 2):
        context = RayContext(rank, torch.device("cpu"), NullTracker(), recorder(tmp_path), "")
        context.keep(0, {"eigenvalues": np.full(3, rank, np.float32)})
    assert (read_snapshots(tmp_path)[0]["eigenvalues"] == 0).all()


class Reports:
    """Ray Train's side of a report: says what was reported how, and stores a folder's files."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.storage_fs_path = folder, str(folder)
        self.made = list[dict[str, Any]]()
        self.stored = dict[str, bytes]()
        self.failures = list[Exception]()

    def report(self, metrics: dict[str, float], **how: Any) -> None:
        self.made.append({"metrics": metrics, **how})

    def get_context(self) -> "Reports":
        return self

    get_storage = get_context

    def persist_current_checkpoint(self, checkpoint: Any, name: str) -> Any:
        if self.failures:
            raise self.failures.pop()
        self.stored = {f"{name}/{f.name}": f.read_bytes() for f in Path(checkpoint.path).iterdir()}
        (self.folder / name).mkdir(exist_ok=True)
        return SimpleNamespace(filesystem=LocalFileSystem(), path=str(self.folder / name))


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Reports:
    reports = Reports(tmp_path)
    for name in ("report", "get_context"):
        monkeypatch.setattr(worker.ray.train, name, getattr(reports, name))
    return reports


def commit(folder: Path, write: Callable[[Path], None] | None) -> Future[None]:
    return RayContext(0, torch.device("cpu"), NullTracker(), recorder(folder), "").commit(4, write)


def fill(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "file").write_text("content")
    (folder / "manifest.json").write_text("{}")


def test_rays_thread_writes_a_checkpoint_and_stores_it(reports: Reports, tmp_path: Path) -> None:
    """Not before it is its turn; and what lay on this node's disk is gone then."""
    kept = commit(tmp_path, fill)
    [report] = reports.made
    assert report["metrics"] == {"step": 4}
    assert report["checkpoint_upload_mode"] is worker.CheckpointUploadMode.ASYNC
    folder = Path(report["checkpoint"].path)
    assert list(folder.iterdir()) == []
    assert not kept.done()
    stored = report["checkpoint_upload_fn"](report["checkpoint"], "checkpoint_x")
    assert stored.path == str(tmp_path / "checkpoint_x")
    assert reports.stored == {"checkpoint_x/file": b"content"}, "the manifest comes last"
    assert (tmp_path / "checkpoint_x" / "manifest.json").read_text() == "{}"
    assert kept.done()
    assert kept.result() is None
    assert not folder.exists()


def test_seconds_from_a_copy_to_a_kept_checkpoint_are_told(
    reports: Reports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the first worker alone, and only once it is kept."""
    clock, told = SimpleNamespace(now=100.0), MemoryTracker()
    monkeypatch.setattr(worker, "time", SimpleNamespace(monotonic=lambda: clock.now))
    for rank, write in ((0, fill), (1, None)):
        RayContext(rank, torch.device("cpu"), told, recorder(tmp_path), "").commit(4, write)
    assert told.history == {}
    clock.now = 107.0
    reports.made[0]["checkpoint_upload_fn"](reports.made[0]["checkpoint"], "checkpoint_x")
    assert told.history == {"time/checkpoint_s": {4: 7.0}}


def test_the_best_checkpoint_is_stored_beside_the_last(
    reports: Reports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole, and before the last one; a storage that is away is waited for."""
    run, upload, away = Store(str(tmp_path / "run")), Store.upload, [True]
    monkeypatch.setattr(worker.time, "sleep", lambda _: None)

    def fails_once(store: Store, folder: Path, *, last: str) -> None:
        if away:
            away.pop()
            raise StorageError("It does not answer.") from ConnectionError("SLOW_DOWN")
        assert reports.stored == {}
        upload(store, folder, last=last)

    monkeypatch.setattr(Store, "upload", fails_once)

    def fill_best(folder: Path) -> None:
        fill(folder)
        state = {"step": 4, "best": {"step": 4, "score": 0.5}}
        (folder / "state.json").write_text(json.dumps(state))

    context = RayContext(0, torch.device("cpu"), NullTracker(), recorder(tmp_path), "", run=run)
    kept = context.commit(4, fill_best)
    [report] = reports.made
    report["checkpoint_upload_fn"](report["checkpoint"], "checkpoint_x")
    assert kept.done()
    assert set(run.sizes()) == {
        f"best/checkpoint_000000004/{name}" for name in ("file", "manifest.json", "state.json")
    }
    assert set(reports.stored) == {"checkpoint_x/file", "checkpoint_x/state.json"}


def test_a_storage_that_is_away_is_waited_for(
    reports: Reports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = list[float]()
    monkeypatch.setattr(worker.time, "sleep", waits.append)
    kept = commit(tmp_path, fill)
    [report] = reports.made
    reports.failures += [ConnectionError("SLOW_DOWN")] * 3
    report["checkpoint_upload_fn"](report["checkpoint"], "checkpoint_x")
    assert len(waits) == 3
    assert reports.stored == {"checkpoint_x/file": b"content"}
    assert kept.done()


def test_a_storage_that_refuses_is_not_waited_for(reports: Reports, tmp_path: Path) -> None:
    kept = commit(tmp_path, fill)
    [report] = reports.made
    reports.failures.append(OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(StorageRefusedError, match=r"cannot be written to \(No space .* command"):
        report["checkpoint_upload_fn"](report["checkpoint"], "checkpoint_x")
    with pytest.raises(StorageRefusedError):
        kept.result(timeout=0)


def test_a_full_disk_is_told_to_the_loop_and_to_ray(reports: Reports, tmp_path: Path) -> None:
    def refuse(folder: Path) -> None:
        raise RunFailedError("The disk is full.")

    kept = commit(tmp_path, refuse)
    [report] = reports.made
    with pytest.raises(RunFailedError):
        report["checkpoint_upload_fn"](report["checkpoint"], "checkpoint_x")
    with pytest.raises(RunFailedError, match="full"):
        kept.result(timeout=0)
    assert not Path(report["checkpoint"].path).exists()


def test_every_worker_reports_the_same_number_of_times(reports: Reports, tmp_path: Path) -> None:
    """And none of its reports waits for a checkpoint under way."""
    for rank, write in ((0, fill), (1, None)):
        reports.made.clear()
        context = RayContext(rank, torch.device("cpu"), NullTracker(), recorder(tmp_path), "")
        context.report(3, {"probe/rankme": 2.0})
        context.report(4, {"train/loss": 1.0})
        assert context.commit(4, write).done() == (write is None)
        assert [report["metrics"]["step"] for report in reports.made] == [3, 4]
        for report in reports.made:
            assert report["checkpoint_upload_mode"] is worker.CheckpointUploadMode.ASYNC
