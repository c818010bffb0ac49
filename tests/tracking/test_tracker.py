from pathlib import Path

import pytest

from bt_ray.errors import TrackingError
from bt_ray.tracking.courier import Courier
from bt_ray.tracking.tracker import JsonLinesTracker, MemoryTracker, NullTracker, read_history


def test_lines_are_read_back_and_a_repeated_step_counts_once(tmp_path: Path) -> None:
    tracker = JsonLinesTracker(tmp_path / "run" / "metrics.jsonl")
    tracker.log(1, {"loss": 3.0})
    tracker.log(3, {"loss": 1.0})
    tracker.log(2, {"loss": 2.0, "knn": 0.5})
    tracker.log(3, {"loss": 1.5})
    assert read_history(tmp_path / "run" / "metrics.jsonl") == {
        "loss": {1: 3.0, 2: 2.0, 3: 1.5},
        "knn": {2: 0.5},
    }


def test_no_file_is_no_history(tmp_path: Path) -> None:
    assert read_history(tmp_path / "none.jsonl") == {}
    NullTracker().log(0, {"loss": 1.0})


def test_courier_delivers_each_line_once_over_restarts(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    worker, heard = JsonLinesTracker(file), []

    class Listener(MemoryTracker):
        def log(self, step, measures) -> None:  # type: ignore[no-untyped-def]
            heard.append((step, dict(measures)))

    with Courier(file, [Listener()], every_s=0.01):
        worker.log(10, {"loss": 3.0})
        worker.log(20, {"loss": 2.0})
        worker.log(20, {"knn": 0.5})
    # The run starts again from step 10, and repeats step 20.
    with Courier(file, [Listener()], every_s=0.01):
        worker.log(20, {"loss": 2.0})
        worker.log(30, {"loss": 1.0})
    assert heard == [
        (10, {"loss": 3.0}),
        (20, {"loss": 2.0}),
        (20, {"knn": 0.5}),
        (30, {"loss": 1.0}),
    ]


def test_courier_keeps_what_a_server_did_not_take(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, heard = tmp_path / "metrics.jsonl", []

    class Server:
        is_up = False

        def log(self, step, measures) -> None:  # type: ignore[no-untyped-def]
            if not self.is_up:
                raise TrackingError("server did not answer.")
            heard.append(step)

    server = Server()
    with Courier(file, [server], every_s=0.01):
        JsonLinesTracker(file).log(1, {"loss": 3.0})
    assert heard == []
    assert "metrics.jsonl" in caplog.text
    server.is_up = True
    with Courier(file, [server], every_s=0.01):
        JsonLinesTracker(file).log(2, {"loss": 2.0})
    assert heard == [1, 2]


def test_courier_waits_for_a_line_to_be_whole(tmp_path: Path) -> None:
    file, listener = tmp_path / "metrics.jsonl", MemoryTracker()
    courier = Courier(file, [listener])
    file.write_text('{"step": 1, "loss"')
    courier.deliver()
    assert listener.history == {}
    file.write_text('{"step": 1, "loss": 2.0}\n')
    courier.deliver()
    assert listener.history == {"loss": {1: 2.0}}
