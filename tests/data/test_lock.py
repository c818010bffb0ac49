"""A lock keeps others out also where the file system does not lock."""

import errno
import fcntl
import logging
import os
import subprocess
import sys
from pathlib import Path

import filelock
import pytest

from bt_ray.data import lock
from bt_ray.data.lock import held, marker_of


@pytest.fixture(params=["ENOSYS", "ENOLCK", "EOPNOTSUPP"])
def without_flock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    number = getattr(errno, request.param)

    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    lock._warn.cache_clear()


def test_a_held_lock_is_waited_for(tmp_path: Path) -> None:
    with (
        held(tmp_path / "lock"),
        pytest.raises(filelock.Timeout),
        held(tmp_path / "lock", timeout_s=0),
    ):
        pass
    with held(tmp_path / "lock", timeout_s=0):
        assert not marker_of(tmp_path / "lock").exists()


@pytest.mark.usefixtures("without_flock")
def test_without_flock_a_file_marks_the_holder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "lock").touch()  # of the time when the storage was elsewhere
    with caplog.at_level(logging.WARNING), held(tmp_path / "lock"):
        assert str(os.getpid()) in marker_of(tmp_path / "lock").read_text()
        with pytest.raises(filelock.Timeout), held(tmp_path / "lock", timeout_s=0):
            pass
    assert caplog.text.count("does not lock files") == 1
    with held(tmp_path / "lock", timeout_s=0):
        pass
    assert not marker_of(tmp_path / "lock").exists()


@pytest.mark.usefixtures("without_flock")
def test_the_mark_of_a_killed_process_is_not_waited_for(tmp_path: Path) -> None:
    code = (
        "import os, sys, filelock\n"
        "lock = filelock.SoftFileLock(sys.argv[1]); lock.acquire(); os._exit(1)"
    )
    marker = marker_of(tmp_path / "lock")
    subprocess.run([sys.executable, "-c", code, str(marker)], check=False)
    assert marker.exists()
    with held(tmp_path / "lock", timeout_s=20):
        pass


def test_other_faults_are_not_taken_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="Input/output error"), held(tmp_path / "lock"):
        pass
