"""One process at a time writes into a folder, wherever it lies, and whatever clocks say."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bt_ray.errors import LaunchError, RunFailedError, StorageError
from bt_ray.storage import claim as claim_module
from bt_ray.storage import holder as holder_module
from bt_ray.storage.cell import Entry, FileCell
from bt_ray.storage.claim import CLAIM_FILE, claimed
from bt_ray.storage.object_cell import why_unconditional
from bt_ray.storage.object_store import build_object_store
from bt_ray.storage.store import Store
from tests.gate import gate
from tests.gcs_emulator import gcs_emulator
from tests.object_store import CREDENTIALS, object_store

BEAT_S, FREE_AFTER_S = 0.1, 1.0
PATIENT_S = 30.0
"""Nobody is taken for gone so soon, however busy the machine."""
_SERVED = [pytest.param(name, marks=pytest.mark.cluster) for name in ("s3", "gs", "gs without")]
_HOLD = """
import sys, time
from bt_ray.storage.cell import Entry, FileCell
from bt_ray.storage.claim import claimed
uri, beat_s, free_after_s = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
with claimed(uri, beat_s=beat_s, free_after_s=free_after_s):
    print("held", flush=True)
    time.sleep(300)
"""


@pytest.fixture(scope="module", params=["file", *_SERVED])
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A place for folders: `{}` in it stands for a folder's name."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in CREDENTIALS.items():
            environment.setenv(name, value)
        match request.param:
            case "file":
                yield f"file://{tmp_path_factory.mktemp('claims')}/{{}}"
            case "s3":
                with object_store("runs") as options:
                    yield f"s3://runs/some/{{}}?{options}"
            case kind:
                with gcs_emulator("runs", on_conditions=kind == "gs") as options:
                    yield f"gs://anonymous@runs/some/{{}}?{options}"


@pytest.fixture
def uri(root: str, request: pytest.FixtureRequest) -> str:
    return root.format(request.node.originalname)


@contextmanager
def hold(
    uri: str, beat_s: float = BEAT_S, free_after_s: float = FREE_AFTER_S
) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the folder, and is killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, uri, str(beat_s), str(free_after_s)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()


def take(uri: str, **times: float) -> "Taken":
    """What comes of trying to claim the folder, and after how many seconds."""
    began = time.monotonic()
    try:
        with claimed(uri, **{"beat_s": BEAT_S, "free_after_s": FREE_AFTER_S, **times}):
            return Taken(time.monotonic() - began, None)
    except LaunchError as error:
        return Taken(time.monotonic() - began, str(error))


@dataclass
class Taken:
    after_s: float
    refusal: str | None


def _is_conditional(uri: str) -> bool:
    return (
        "://" not in uri or uri.startswith("file") or not why_unconditional(build_object_store(uri))
    )


def left_behind(uri: str, **told: object) -> None:
    """A claim whose process is gone."""
    known = {"id": "gone", "host": "elsewhere", "pid": 7, "since": "2020-01-01 00:00:00 UTC"}
    Store(uri).write(CLAIM_FILE, json.dumps({**known, "count": 5, **told}).encode())


def test_the_second_is_told_who_holds_it_and_a_third_gets_it_when_it_is_released(uri: str) -> None:
    with hold(uri) as holder:
        refused = take(uri, free_after_s=PATIENT_S)
    assert refused.refusal is not None
    assert f"process {holder.pid} on " in refused.refusal
    assert "going already" in refused.refusal
    assert "--name" in refused.refusal
    assert refused.after_s < 10

    left = take(uri)
    assert left.refusal is None
    assert FREE_AFTER_S <= left.after_s < FREE_AFTER_S + 4, "a killed process's claim is free soon"
    assert take(uri).after_s < 3, "what was released is free at once"
    assert CLAIM_FILE not in Store(uri).sizes()


@pytest.mark.parametrize("off", [timedelta(hours=1), timedelta(hours=-1)])
def test_a_clock_an_hour_off_changes_nothing(
    uri: str, off: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return datetime.now(UTC) + off

    monkeypatch.setattr(holder_module, "datetime", Clock)
    with claimed(uri, beat_s=BEAT_S, free_after_s=FREE_AFTER_S):
        monkeypatch.undo()
        monkeypatch.setattr(time, "time", lambda: 0.0)
        assert take(uri, free_after_s=PATIENT_S).refusal is not None
    left_behind(uri, since=f"{datetime.now(UTC) + off}")
    assert take(uri).refusal is None


def contend(uri: str, many: int, free_after_s: float) -> list[bool]:
    """Who got the folder, of many at once; whoever has it keeps it until the others are refused."""
    start, over = threading.Barrier(many, timeout=60), threading.Barrier(many, timeout=60)
    outcomes: list[bool] = []

    def go() -> None:
        start.wait()
        try:
            with claimed(uri, beat_s=0.05, free_after_s=free_after_s):
                outcomes.append(True)
                over.wait()
        except LaunchError:
            outcomes.append(False)
            over.wait()

    threads = [threading.Thread(target=go) for _ in range(many)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(outcomes)


def test_of_many_that_start_at_once_one_runs(uri: str) -> None:
    for number in range(20 if _is_conditional(uri) else 3):
        folder = Store(uri).below(str(number)).uri
        assert contend(folder, 3, PATIENT_S) == [False, False, True]


def test_of_two_that_succeed_a_killed_process_one_does(uri: str) -> None:
    left_behind(uri)
    assert contend(uri, 2, FREE_AFTER_S) == [False, True]


def test_who_lost_the_claim_is_told_and_leaves_it_to_the_other(
    uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    with claimed(uri) as claim:
        claim.check()
        left_behind(uri)
        with pytest.raises(RunFailedError, match=r"took .* over while this one"):
            claim.check()
        assert claim.lost.is_set()
    assert "This one must stop" in caplog.text
    assert json.loads(Store(uri).read(CLAIM_FILE))["id"] == "gone"
    Store(uri).remove(CLAIM_FILE)


def test_a_heartbeat_sees_that_the_claim_was_lost(uri: str) -> None:
    with claimed(uri, beat_s=BEAT_S) as claim:
        left_behind(uri)
        assert claim.lost.wait(10)
    Store(uri).remove(CLAIM_FILE)


def test_a_claim_that_somebody_removed_is_made_again(uri: str) -> None:
    with claimed(uri, beat_s=BEAT_S) as claim:
        Store(uri).remove(CLAIM_FILE)
        until = time.monotonic() + 10
        while CLAIM_FILE not in Store(uri).sizes():
            assert time.monotonic() < until
            time.sleep(BEAT_S)
        assert take(uri, free_after_s=PATIENT_S).refusal is not None
        assert not claim.lost.is_set()


def test_a_claim_that_was_cut_short_is_succeeded(uri: str) -> None:
    Store(uri).write(CLAIM_FILE, b'{"id": "go')
    assert take(uri).refusal is None


def test_it_is_released_when_the_run_fails(uri: str) -> None:
    with pytest.raises(ZeroDivisionError), claimed(uri):
        raise ZeroDivisionError
    assert CLAIM_FILE not in Store(uri).sizes()


def test_a_storage_that_writes_on_no_conditions_is_named(
    uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    with claimed(uri):
        pass
    assert ("on conditions" in caplog.text) == (not _is_conditional(uri))


@pytest.mark.cluster
def test_a_storage_that_is_away_for_a_while_loses_no_claim(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor may another think that the holder is gone, because its storage did not answer it."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with object_store("runs") as options:
        server = int(options.partition("127.0.0.1:")[2].partition("&")[0])
        with gate(server) as way:
            uri = f"s3://runs/away?endpoint_override=127.0.0.1:{way.port}&scheme=http"
            times = {"beat_s": 0.2, "free_after_s": 3.0}
            with claimed(uri, **times) as claim:
                way.shut()
                time.sleep(4)  # many heartbeats, and more than another would wait
                way.open()
                refused = take(uri, beat_s=0.2, free_after_s=PATIENT_S)
                assert refused.refusal is not None
                assert not claim.lost.is_set()
            assert "is tried again" in caplog.text
            assert take(uri, **times).refusal is None


def test_what_was_not_looked_at_is_not_taken_for_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The storage is away from both: the holder's time begins anew when it answers again."""
    began = time.monotonic()

    class Away(FileCell):
        def read(self) -> Entry | None:
            if 0.2 < time.monotonic() - began < 0.9:
                raise StorageError("away")
            return super().read()

    monkeypatch.setattr(claim_module, "FileCell", Away)
    monkeypatch.setattr("bt_ray.storage.cell._SETTLED_S", 0.01)
    uri = str(tmp_path)
    left_behind(uri)
    beat = threading.Timer(1.4, left_behind, [uri], {"count": 6})
    beat.start()
    assert take(uri, free_after_s=1.1).refusal is not None
    beat.join()


@pytest.mark.cluster
def test_a_killed_driver_s_run_is_free_within_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the times that runs have."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with object_store("runs") as options:
        uri = f"s3://runs/killed?{options}"
        with hold(uri, 10, 45):
            pass
        began = time.monotonic()
        with claimed(uri):
            assert time.monotonic() - began < 60


@pytest.mark.run
def test_a_storage_that_does_not_answer_is_named_without_its_keys(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    uri = "s3://someone:0pensesame@runs/mine?endpoint_override=127.0.0.1:1&scheme=http"
    with pytest.raises(StorageError, match="s3://runs/mine") as error, claimed(uri):
        pass
    assert "0pensesame" not in f"{error.value}{caplog.text}"


def test_a_claim_leaves_nothing_but_its_folder(tmp_path: Path) -> None:
    with claimed(str(tmp_path / "mine"), beat_s=0.02):
        time.sleep(0.3)
        assert CLAIM_FILE in [file.name for file in (tmp_path / "mine").iterdir()]
    assert not list((tmp_path / "mine").iterdir())


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StorageError, match="file"), claimed(str(tmp_path / "file" / "mine")):
        pass
