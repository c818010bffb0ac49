"""Three machines that share nothing but an object store: one run, whoever is lost; then a sweep."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.nodes import HEAD, Nodes, address, make_nodes
from tests.object_store import CREDENTIALS

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
_PORT = 5555
_STORAGE = f"s3://far/runs?endpoint_override={address(HEAD)}:{_PORT}&scheme=http"
_SMALL = (
    "--data.global-batch", "128", "--model.projector-widths", "64", "64",
    "--schedule.epochs", "12", "--schedule.warmup-epochs", "1",
    "--training.log-every-steps", "1", "--training.checkpoint-every-epochs", "1",
    "--training.probe-every-epochs", "12", "--training.precision", "fp32",
    "--scaling.threads-per-worker", "1", "--storage", _STORAGE,
)  # fmt: skip


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """A head with the store, and two that each have a worker's CPU and room for data."""
    with (
        pytest.MonkeyPatch.context() as environment,
        make_nodes(tmp_path_factory.mktemp("logs"), private=[tmp_path_factory.mktemp("x")]) as made,
    ):
        for name, value in CREDENTIALS.items():
            environment.setenv(name, value)
        made.space(HEAD)
        server = made.begin(
            HEAD, [sys.executable, "-m", "moto.server", "-H", "0.0.0.0", "-p", str(_PORT)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        _python(made, HEAD, _MAKE_BUCKET)
        made.join(HEAD, cpus=2, store_mb=150)
        made.join(2, cpus=2, store_mb=150)
        made.join(3, cpus=2, store_mb=150)
        yield made
        assert server.poll() is None


_MAKE_BUCKET = f"""
import time, urllib.request
for _ in range(200):
    try:
        url = "http://{address(HEAD)}:{_PORT}/far"
        urllib.request.urlopen(urllib.request.Request(url, method="PUT"))
        break
    except OSError:
        time.sleep(0.25)
"""


def _python(nodes: Nodes, number: int, code: str) -> str:
    done = nodes.run(number, [sys.executable, "-c", code], timeout_s=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _listed(nodes: Nodes) -> list[str]:
    code = (
        f"from bt_ray.storage.store import Store\nprint(chr(10).join(Store({_STORAGE!r}).sizes()))"
    )
    return _python(nodes, HEAD, code).split()


def _begin(nodes: Nodes, number: int, *words: str, log: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", *words]
    environment = {"RAY_ADDRESS": f"{address(HEAD)}:6379"}
    return nodes.begin(number, command, environment, stdout=log.open("w"), stderr=subprocess.STDOUT)


def _summary(log: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(log.read_text().splitlines()[-1])
    return found


def _checkpoints(nodes: Nodes, name: str) -> set[str]:
    return {file.split("/")[2] for file in _listed(nodes) if file.startswith(f"{name}/train/check")}


@pytest.mark.slow
def test_a_run_outlives_its_node_and_its_driver(nodes: Nodes, tmp_path: Path) -> None:
    words = ("pipelines.pretrain", "digits", "--name", "far", "--scaling.workers", "2", *_SMALL)
    first = _begin(nodes, 2, *words, log=tmp_path / "first")
    seen = set[str]()
    while len(seen) < 2:
        assert first.poll() is None, (tmp_path / "first").read_text()[-3000:]
        seen |= _checkpoints(nodes, "far")
        time.sleep(1)
    nodes.kill(3)
    nodes.join(3, cpus=2, store_mb=150)
    after_loss = len(seen)
    while len(seen) < after_loss + 2:
        assert first.poll() is None, (tmp_path / "first").read_text()[-3000:]
        seen |= _checkpoints(nodes, "far")
        time.sleep(1)
    nodes.signal(first, signal.SIGKILL)
    first.wait()
    second = _begin(nodes, 3, *words, log=tmp_path / "second")
    assert second.wait(timeout=300) == 0, (tmp_path / "second").read_text()[-3000:]
    summary = _summary(tmp_path / "second")
    assert summary["steps"] == summary["total_steps"]
    alone = nodes.run(
        HEAD,
        [sys.executable, "-m", "pipelines.pretrain", "digits", "--name", "alone",
         "--scaling.workers", "0", *_SMALL],
        timeout_s=300,
    )  # fmt: skip
    assert alone.returncode == 0, alone.stderr[-3000:]
    assert json.loads(alone.stdout.splitlines()[-1])["stream_digest"] == summary["stream_digest"]


@pytest.mark.slow
def test_other_nodes_evaluate_embed_and_report_it(nodes: Nodes, tmp_path: Path) -> None:
    run = _STORAGE.replace("/runs?", "/runs/far?")
    for number, words in (
        (2, ["evaluate", "knn", run, "--storage", _STORAGE]),
        (
            3,
            [
                "evaluate",
                "linear",
                run,
                "--storage",
                _STORAGE,
                "--workers",
                "2",
                "--epochs",
                "1",
                "--batch",
                "128",
            ],
        ),
        (3, ["embed", "digits:test", _STORAGE.replace("/runs?", "/vectors?"), "--model", run]),
        (HEAD, ["report", run, "--output", str(tmp_path / "report.html")]),
    ):
        command = [sys.executable, "-m", f"pipelines.{words[0]}", *words[1:]]
        done = nodes.run(number, command, timeout_s=200)
        assert done.returncode == 0, done.stderr[-3000:]
    assert any(name.startswith("evaluations/") for name in _listed(nodes))


@pytest.mark.slow
def test_a_sweep_is_kept_there_too(nodes: Nodes) -> None:
    done = nodes.run(
        2,
        [sys.executable, "-m", "pipelines.sweep", "redundancy_weight", "digits", "--trials", "2",
         "--seeds", "1", "--scaling.workers", "1", *_SMALL],
        timeout_s=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    names = _listed(nodes)
    sweep = {name.split("/", 2)[2] for name in names if name.startswith("sweeps/")}
    assert {"sweep.json", "mlflow.db", "study.db", "trials/000.json", "trials/001.json"} <= sweep


@pytest.mark.slow
def test_the_doctor_tells_a_folder_of_one_node_from_a_store_of_all(nodes: Nodes) -> None:
    """What else it finds is the machine's; this finding alone is looked at."""
    found = {}
    for storage in (_STORAGE, "/tmp/runs"):
        done = nodes.run(
            HEAD, [sys.executable, "-m", "pipelines.doctor", "--storage", storage, "--json"],
            timeout_s=200,
        )  # fmt: skip
        record = json.loads(done.stdout.splitlines()[-1])
        found[storage] = (
            done.returncode,
            [one["state"] for one in record["findings"] if one["check"] == "storage"],
        )
    assert len(found[_STORAGE][1]) == 3
    assert "wrong" not in found[_STORAGE][1]
    code, states = found["/tmp/runs"]
    assert code == 2
    assert "wrong" in states
