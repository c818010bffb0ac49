"""What is said where an MLflow server wants to know who asks, or forbids something."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
import requests
from mlflow.exceptions import MlflowException

from bt_ray.config import Settings
from bt_ray.errors import TrackingError
from bt_ray.tracking.mlflow import refusal, start_run
from bt_ray.tracking.registry_alias import Move, version_before


@pytest.fixture(params=[401, 403])
def server(request: pytest.FixtureRequest) -> Iterator[tuple[int, str]]:
    """The status that it answers everything with, and its URI."""
    status = request.param

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"You are not authenticated. Please see the documentation.")

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    listening = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=listening.serve_forever, daemon=True).start()
    yield status, f"http://127.0.0.1:{listening.server_port}"
    listening.shutdown()
    listening.server_close()


def test_a_server_that_refuses_is_one_sentence_without_the_password(
    server: tuple[int, str], small_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, uri = server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "s3cret")
    with pytest.raises(TrackingError) as caught:
        start_run(small_settings)
    said = {
        401: "does not let in the user 'ann': set",
        403: "does not allow this to the user 'ann'",
    }
    assert f"MLflow at {uri} {said[status]}" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_an_artifact_store_that_refuses_is_understood_too() -> None:
    answer = requests.Response()
    answer.status_code = 403
    assert "does not allow this" in str(refusal(requests.HTTPError(response=answer), "MLflow"))
    assert refusal(MlflowException("It is full.", error_code=8), "MLflow") is None


def move(version: str, before: str | None, kind: str = "promoted") -> Move:
    return Move(version=version, before=before, kind=kind, why="")


@pytest.mark.parametrize(
    ("moves", "now", "there", "expected"),
    [
        ([], "1", "1", None),
        ([move("1", None)], "1", "1", None),
        ([move("1", None), move("2", "1")], "2", "12", "1"),
        ([move("2", "1")], "2", "12", "1"),  # what was before is known of it alone
        ([move("1", None), move("2", "1"), move("1", "2", "rolled back")], "1", "12", None),
        ([move("1", None), move("2", "1"), move("1", "2")], "1", "12", "2"),  # promoted again
        ([move("1", None), move("2", "1")], "3", "123", "2"),  # moved by hand
        ([move("1", None), move("2", "1"), move("3", "2")], "3", "13", "1"),  # 2 was deleted
    ],
)
def test_the_version_before(moves: list[Move], now: str, there: str, expected: str | None) -> None:
    assert version_before(moves, now, there) == expected
