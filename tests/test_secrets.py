"""Passwords in URIs, planted, are in no output, no file and no tag of a whole run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from benchmarks.ray_nodes import free_ports
from tests.tracking.test_server import mlflow_server

SECRETS = ("s3cret-tracking", "s3cret-study", "s3cret-store")
SMALL = (
    "--schedule.epochs=1", "--schedule.warmup-epochs=0", "--scaling.workers=0",
    "--model.projector-widths", "64", "64", "--data.global-batch=512",
)  # fmt: skip


def command(
    *words: str, tracking: str | None = None, **more: str
) -> "subprocess.CompletedProcess[bytes]":
    environment = {**os.environ, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", **more}
    environment.pop("MLFLOW_TRACKING_URI", None)
    if tracking is not None:
        environment["MLFLOW_TRACKING_URI"] = tracking
    return subprocess.run(
        [sys.executable, "-m", *words], capture_output=True, check=False, env=environment,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip


def leaks(done: "subprocess.CompletedProcess[bytes]", *folders: Path) -> list[str]:
    """Where a secret stands: stdout, stderr, or files below the folders."""
    places = {"stdout": done.stdout, "stderr": done.stderr}
    for folder in folders:
        for file in folder.rglob("*"):
            if file.is_file():
                places[str(file)] = file.read_bytes()
    planted = [secret.encode() for secret in SECRETS]
    return [place for place, text in places.items() if any(s in text for s in planted)]


@pytest.mark.run
def test_refusals_name_no_secret(tmp_path: Path) -> None:
    server = "http://me:s3cret-tracking@127.0.0.1:9"
    done = command(
        "pipelines.pretrain", "digits", "--name=x", f"--storage={tmp_path}", *SMALL, tracking=server
    )
    assert done.returncode == 2, done.stderr.decode()[-2000:]
    assert b"MLflow at http://127.0.0.1:9 does not answer" in done.stderr
    assert leaks(done, tmp_path) == []


@pytest.mark.run
@pytest.mark.parametrize(
    "place",
    ["s3://me:s3cret-store@no-bucket-here/x?endpoint_override=http%3A%2F%2F127.0.0.1%3A9",
     "s3://no-bucket-here/x?secret_key=s3cret-store&access_key=me", "foo://me:s3cret-store@h/x"],
)  # fmt: skip
def test_a_store_that_cannot_be_read_is_named_without_its_keys(tmp_path: Path, place: str) -> None:
    done = command(
        "pipelines.pretrain", "images", "--name=x", f"--storage={tmp_path}", "--data.train", place,
        "--dry-run", AWS_EC2_METADATA_DISABLED="true", AWS_MAX_ATTEMPTS="1",
    )  # fmt: skip
    assert done.returncode in (1, 2), done.stderr.decode()[-2000:]
    assert leaks(done, tmp_path) == []


@pytest.mark.cluster
def test_a_run_on_a_server_with_a_password_keeps_it(tmp_path: Path) -> None:
    """And goes on, and is evaluated there: the password is known by the environment alone."""
    (port,) = free_ports(1)
    storage, kept = tmp_path / "runs", tmp_path / "server"
    kept.mkdir()
    uri = f"http://me:s3cret-tracking@127.0.0.1:{port}"
    with mlflow_server(kept, port):
        order = ("pipelines.pretrain", "digits", "--name=x", f"--storage={storage}", *SMALL)
        for _ in range(2):
            done = command(*order, tracking=uri)
            assert done.returncode == 0, done.stderr.decode()[-2000:]
            assert leaks(done, storage, kept) == []
        assert f"http://127.0.0.1:{port}".encode() in done.stdout
        done = command(
            "pipelines.evaluate", "knn", str(storage / "x"), f"--storage={storage}", tracking=uri
        )
        assert done.returncode == 0, done.stderr.decode()[-2000:]
        assert leaks(done, storage, kept) == []
        [run] = MlflowClient(f"http://127.0.0.1:{port}").search_runs(["1"])
        assert "eval/knn_top1" in run.data.metrics
