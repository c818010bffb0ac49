import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from bt_ray.config import Settings
from bt_ray.errors import TrackingError
from bt_ray.tracking.courier import Courier
from bt_ray.tracking.mlflow import start_run
from bt_ray.tracking.tracker import (
    JsonLinesTracker,
    MemoryTracker,
    NullTracker,
    now_ms,
    read_history,
)


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
        def log(self, step, measures, time_ms) -> None:  # type: ignore[no-untyped-def]
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

        def log(self, step, measures, time_ms) -> None:  # type: ignore[no-untyped-def]
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


def test_a_line_whose_receipt_was_lost_comes_again_with_its_own_time(tmp_path: Path) -> None:
    """By which a server that took it the first time knows it."""
    file, heard = tmp_path / "metrics.jsonl", list[tuple[int, float, int | None]]()

    class Server:
        def log(self, step, measures, time_ms) -> None:  # type: ignore[no-untyped-def]
            heard.append((step, measures["loss"], time_ms))
            if len(heard) == 1:
                raise TrackingError("The answer was lost.")

    before = now_ms()
    JsonLinesTracker(file).log(1, {"loss": 3.0})
    after = now_ms()
    courier = Courier(file, [Server()])
    with pytest.raises(TrackingError):
        courier.deliver()
    time.sleep(0.01)
    courier.deliver()
    assert heard[0] == heard[1] == (1, 3.0, heard[0][2])
    assert before <= heard[0][2] <= after  # type: ignore[operator]


def test_mlflow_keeps_what_is_sent_twice_once(small_settings: Settings) -> None:
    run, _ = start_run(small_settings)
    for measures in ({"loss": 3.0}, {"loss": 3.0}, {"loss": 3.0, "knn": 0.5}):
        run.log(1, measures, 1_700_000_000_000)
    run.log(2, {"loss": 3.0})
    client = MlflowClient(run.uri)
    assert [m.step for m in client.get_metric_history(run.run_id, "loss")] == [1, 2]
    assert [m.step for m in client.get_metric_history(run.run_id, "knn")] == [1]


def test_lines_without_a_time_are_read_as_well(tmp_path: Path) -> None:
    """Of runs that an older version began."""
    file, listener = tmp_path / "metrics.jsonl", MemoryTracker()
    file.write_text('{"step": 1, "loss": 2.0}\n')
    Courier(file, [listener]).deliver()
    assert listener.history == read_history(file) == {"loss": {1: 2.0}}
