"""`python -m pipelines.doctor` as a user types it, where all is well and where nothing is."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.ray_nodes import RAY, end, free_ports, ray_head
from bt_ray.doctor.cluster import Cluster
from bt_ray.doctor.examination import Examination, Orders
from bt_ray.doctor.examine import judge
from bt_ray.doctor.tracking import measure_tracking
from tests.object_store import CREDENTIALS, object_store
from tests.tracking.test_server import mlflow_server

ROOT = Path(__file__).parents[2]
ALONE = {"RAY_ADDRESS", "RAY_JOB_ID", "MLFLOW_TRACKING_URI"}


def doctor(*arguments: str, **environment: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, record and what people read."""
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.doctor", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
        env={k: v for k, v in os.environ.items() if k not in ALONE} | environment,
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout), done.stderr


def states(record: dict[str, Any], check: str) -> set[str]:
    return {finding["state"] for finding in record["findings"] if finding["check"] == check}


@pytest.mark.run
def test_this_machine_alone(tmp_path: Path) -> None:
    storage = tmp_path / "runs"
    _, record, shown = doctor("--storage", str(storage), "--data", "digits")
    for check in ("storage", "images", "mlflow", "devices", "versions", "disk"):
        assert states(record, check) == {"good"}
        assert check in shown
    assert not storage.exists()
    assert record["seconds"] < 60


@pytest.mark.run
def test_what_is_wrong_is_said_with_exit_code_2(tmp_path: Path) -> None:
    """All at once: no cluster, no server, no folder, no images."""
    (port,) = free_ports(1)
    (tmp_path / "file").write_text("no folder")
    code, record, shown = doctor(
        "--json", "--storage", str(tmp_path / "file"), "--data", str(tmp_path / "absent"),
        RAY_ADDRESS=f"127.0.0.1:{port}", MLFLOW_TRACKING_URI=f"http://me:word@127.0.0.1:{port}",
    )  # fmt: skip
    assert (code, record["healthy"], shown) == (2, False, "")
    for check in ("cluster", "storage", "images", "mlflow"):
        assert states(record, check) == {"wrong"}
    assert f"Nothing answers at RAY_ADDRESS=127.0.0.1:{port}" in json.dumps(record)
    assert "word" not in json.dumps(record)


@pytest.mark.ray
def test_a_cluster_of_one_node(cluster: None, tmp_path: Path) -> None:
    orders = Orders(storage=str(tmp_path), images="digits")
    examination = Examination(orders=orders, is_cluster=True)
    doctors = Cluster(time.monotonic() + 45)
    doctors.look(examination)
    doctors.measure_storage(examination)
    doctors.measure_images(examination)
    doctors.measure_network(examination)
    doctors.leave()
    [place] = examination.nodes
    assert examination.silent == {}
    assert abs(examination.clocks[place].offset_s) < 0.1
    assert examination.nodes[place].store_bytes
    assert examination.network == {}
    services = [f for f in judge(examination) if f.check in ("storage", "images", "clock")]
    assert {finding.place for finding in services} == {place}
    assert {finding.state for finding in services} == {"good"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.cluster
def test_two_nodes_add_up_and_see_each_other(tmp_path: Path) -> None:
    with ray_head() as head:
        second = subprocess.Popen(
            [RAY, "start", f"--address={head.address}", "--block", "--num-cpus=1",
             "--node-ip-address=127.0.0.1", "--disable-usage-stats"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            record: dict[str, Any] = {}
            for _ in range(3):  # until the second has come
                _, record, _ = doctor("--storage", str(tmp_path), RAY_ADDRESS=head.address)
                if len(record["facts"]["nodes"]) == 2:
                    break
        finally:
            end(second)
    assert len(record["facts"]["nodes"]) == 2
    network = record["facts"]["network"].values()
    assert [facts["backend"] for facts in network] == ["gloo", "gloo"]
    assert all(facts["is_right"] and len(facts["sums"]) == 3 for facts in network)
    for check in ("storage", "clock", "versions", "cluster"):
        assert states(record, check) == {"good"}
    assert record["seconds"] < 60


@pytest.mark.cluster
def test_a_bucket_is_measured(tmp_path: Path) -> None:
    with object_store("runs") as options:
        uri = f"s3://runs/mine?{options}"
        _, record, _ = doctor("--storage", uri, **CREDENTIALS)
        [facts] = record["facts"]["storage"].values()
        assert facts["fault"] is None
        assert facts["whole"]
        code, record, _ = doctor("--storage", f"s3://absent/mine?{options}", **CREDENTIALS)
        assert code == 2
        assert states(record, "storage") == {"wrong"}


@pytest.mark.cluster
def test_a_server_of_mlflow_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (port,) = free_ports(1)
    uri = f"http://127.0.0.1:{port}"
    with mlflow_server(tmp_path, port):
        for _ in range(2):  # the second finds the experiment of the first
            facts = measure_tracking(uri)
            assert facts.fault is None
            assert facts.logged
            assert facts.kept_file
        (tmp_path / "artifacts").rename(tmp_path / "gone")
        (tmp_path / "artifacts").write_text("no folder")
        facts = measure_tracking(uri)
        assert facts.logged
        assert not facts.kept_file
        assert facts.fault
