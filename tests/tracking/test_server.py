"""A run beside a real MLflow server that dies and comes back."""

import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from benchmarks.ray_nodes import free_ports
from bt_ray.config import Settings, override
from bt_ray.errors import TrackingError
from bt_ray.tracking.tracker import METRICS, read_history
from bt_ray.training.launch import pretrain

pytestmark = pytest.mark.cluster


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[psutil.Process]:
    """An MLflow server on loopback that keeps everything in `folder`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}",
         "--workers=1", f"--backend-store-uri=sqlite:///{folder}/server.db",
         "--serve-artifacts", f"--artifacts-destination={folder}/artifacts"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    server = psutil.Process(process.pid)
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                break
            except OSError:
                time.sleep(0.5)
        yield server
    finally:
        kill(server)
        process.wait()


def kill(server: psutil.Process) -> None:
    """Ends the server and its workers at once."""
    if server.is_running():
        for member in (*server.children(recursive=True), server):
            member.kill()


def test_a_server_that_goes_away_costs_no_step_and_gets_every_line_once(
    small_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (port,) = free_ports(1)
    uri = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    settings = override(small_settings, {"scaling.workers": 0, "schedule.epochs": 40})
    metrics = Path(settings.storage) / "small" / METRICS
    with pytest.raises(TrackingError, match=f"MLflow at {uri} does not answer"):
        pretrain(settings)
    assert not metrics.exists()

    with mlflow_server(tmp_path, port) as server:

        def kill_after_a_few_steps() -> None:
            while max(read_history(metrics).get("train/loss", {0: 0.0})) < 5:
                time.sleep(0.05)
            kill(server)

        killer = threading.Thread(target=kill_after_a_few_steps)
        killer.start()
        summary = pretrain(settings)
        killer.join()
    assert (summary.steps, summary.model_version) == (80, None)
    assert any(str(metrics) in sentence for sentence in summary.warnings)

    with mlflow_server(tmp_path, port):
        again = pretrain(settings)
        client = MlflowClient(uri)
        run = client.get_run(summary.run_id)
        assert run.info.status == "FINISHED"
        history = client.get_metric_history(summary.run_id, "train/loss")
        assert [metric.step for metric in history] == list(range(1, 81))
    assert (again.run_id, again.model_version) == (summary.run_id, "barlow-small/1")
    assert again.warnings == ()
