"""What a run on a cluster survives: losses, hangs, notices and stops; and nodes still to come."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from benchmarks.ray_nodes import RAY, Head, lose, ray_head, ray_node
from bt_ray.checkpoints.checkpoint import newest_checkpoint
from tests.cluster.nodes import HEAD, make_nodes

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
PYTHON = sys.executable
LONG = [
    "--schedule.epochs", "100000", "--training.checkpoint-every-epochs", "4",
    "--training.probe-every-epochs", "50000", "--training.log-every-steps", "1",
]  # fmt: skip
PATIENCE_S = 240


@dataclass(frozen=True)
class Cluster:
    """A head with a CPU for reading, and two nodes with one for each of two workers."""

    head: Head
    nodes: tuple[int, int]
    """Their processes."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with (
        ray_head(1, store_mb=100) as head,
        ray_node(head, 2, store_mb=100) as one,
        ray_node(head, 2, store_mb=100) as other,
    ):
        yield Cluster(head, (one, other))


def pretraining(storage: Path, *more: str) -> list[str]:
    return [
        PYTHON, "-m", "pipelines.pretrain", "digits", "--name", "long", "--storage", str(storage),
        "--scaling.workers", "2", *LONG, *more,
    ]  # fmt: skip


def workers() -> dict[int, psutil.Process]:
    """Training's processes on this machine that descend from the test, by id."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found[process.pid] = process
    return found


def until(is_so: Callable[[], bool], run: subprocess.Popen[str] | None = None) -> float:
    """Seconds until something is so."""
    began = time.monotonic()
    while not is_so():
        waited = time.monotonic() - began
        if run is not None and run.poll() is not None:
            raise AssertionError(f"The run ended: {run.communicate()[1][-3000:]}")
        assert waited < PATIENCE_S
        time.sleep(0.1)
    return time.monotonic() - began


def until_replaced(before: dict[int, psutil.Process], run: subprocess.Popen[str]) -> float:
    """Seconds until none of these workers is left, and as many others are there."""

    def are_replaced() -> bool:
        now = workers().keys()
        return len(now) == len(before) and not (before.keys() & now)

    return until(are_replaced, run)


def saved(storage: Path) -> int:
    return newest_checkpoint(storage / "long")[1]


def next_checkpoint(storage: Path, run: subprocess.Popen[str] | None = None) -> float:
    """Seconds until there is one more."""
    before = saved(storage)
    return until(lambda: saved(storage) > before, run)


def steps(storage: Path) -> list[int]:
    """The steps in the order of their measures."""
    lines = (storage / "long" / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines if line.endswith("}")]
    return [record["step"] for record in records if "train/loss" in record]


def drain(head: Head, of: psutil.Process) -> None:
    """Tells Ray that the node of a process will be taken away in a minute."""
    script = (
        "import ray; ray.init(logging_level='ERROR')\n"
        "from ray.util.state import list_workers\n"
        f"print([w.node_id for w in list_workers(limit=1000) if w.pid == {of.pid}][0])"
    )
    env = os.environ | {"RAY_ADDRESS": head.address}
    node = subprocess.run(
        [PYTHON, "-c", script], env=env, capture_output=True, text=True, check=True
    ).stdout.split()[-1]
    subprocess.run(
        [RAY, "drain-node", "--address", head.address, "--node-id", node, "--reason",
         "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "a test's notice",
         "--deadline-remaining-seconds", "60"],
        env=env, check=True, capture_output=True,
    )  # fmt: skip


@pytest.mark.slow
def test_a_job_that_is_stopped_loses_nothing_and_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    env = {"RAY_JOB_STOP_WAIT_TIME_S": "120", "PYTHONPATH": str(ROOT)}

    def ray_job(*arguments: str) -> str:
        done = subprocess.run(
            [RAY, "job", *arguments[:1], "--address", cluster.head.jobs, *arguments[1:]],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    for name in ("first", "second"):
        ray_job(
            "submit", "--no-wait", "--submission-id", name, "--runtime-env-json",
            json.dumps({"env_vars": env}), "--", *pretraining(tmp_path),
        )  # fmt: skip
        next_checkpoint(tmp_path)
        ray_job("stop", name)  # comes back when it has stopped
        assert f"Job '{name}' was stopped" in ray_job("status", name)
        assert saved(tmp_path) == steps(tmp_path)[-1]
    assert steps(tmp_path) == list(range(1, saved(tmp_path) + 1))


@pytest.mark.slow
def test_losses_a_hang_a_notice_and_the_end_of_all_nodes(cluster: Cluster, tmp_path: Path) -> None:
    """One failure in a row is allowed; more come, with a checkpoint between them."""
    env = os.environ | {
        "RAY_ADDRESS": cluster.head.address,
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1",  # other tests do without
        "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "15",  # a test has no time for 45
    }
    command = pretraining(tmp_path, "--scaling.max-failures", "1", "--scaling.wait-minutes", "0.2")
    run = subprocess.Popen(
        command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        next_checkpoint(tmp_path, run)
        for number in (signal.SIGKILL, signal.SIGSTOP):
            before = workers()
            assert len(before) == 2
            victim = next(iter(before.values()))
            victim.send_signal(number)
            assert until_replaced(before, run) < 90
            next_checkpoint(tmp_path, run)
        before = workers()
        first_new = len(steps(tmp_path))
        drain(cluster.head, next(iter(before.values())))
        assert until_replaced(before, run) < 60  # its node would go then
        next_checkpoint(tmp_path, run)
        seen = steps(tmp_path)[first_new - 1 :]
        assert seen == list(range(seen[0], seen[0] + len(seen)))  # none is lost, none comes twice
        for node in cluster.nodes:
            lose(node)
        said = run.communicate(timeout=PATIENCE_S)[1]
    finally:
        run.kill()
    assert run.returncode == 1, said
    assert " for 0.2 minutes (scaling.wait_minutes): " in said
    assert "make 2 CPUs; the cluster has 1." in said


AUTOSCALING = """
from ray.cluster_utils import AutoscalingCluster

class Fake(AutoscalingCluster):
    def _generate_config(self, head_resources, worker_node_types, autoscaler_v2=False):
        "What Ray reads from a file that its wheels leave out."
        none = dict.fromkeys(("file_mounts", "auth", "docker"), {}) | dict.fromkeys(
            ("cluster_synced_files", "initialization_commands", "setup_commands",
             "head_setup_commands", "worker_setup_commands", "head_start_ray_commands",
             "worker_start_ray_commands"), [])
        head = {"resources": dict(head_resources), "node_config": {}, "max_workers": 0}
        return none | {
            "cluster_name": "fake", "max_workers": 2, "provider": {"type": "fake_multinode"},
            "available_node_types": {"head": head, **worker_node_types}, "head_node_type": "head",
            "upscaling_speed": 1.0, "file_mounts_sync_continuously": False,
            "idle_timeout_minutes": 10}

store = {"object_store_memory": 100 << 20}
kind = {"resources": {"CPU": 3, **store}, "node_config": {}, "min_workers": 0, "max_workers": 2}
Fake(head_resources={"CPU": 1, **store}, worker_node_types={"worker": kind}).start()
"""


@pytest.mark.slow
def test_nodes_that_are_at_zero_are_asked_of_the_autoscaler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a node of its own: Ray's cluster for tests begins by ending all of Ray that it sees."""
    shared = tmp_path / "shared"
    shared.mkdir()
    monkeypatch.setenv("PATH", f"{Path(PYTHON).parent}:{os.environ['PATH']}")
    with make_nodes(tmp_path / "logs", shared=[shared]) as nodes:
        nodes.space(HEAD)
        started = nodes.run(HEAD, [PYTHON, "-c", AUTOSCALING])
        assert started.returncode == 0, started.stderr
        done = nodes.run(
            HEAD, [*pretraining(shared), "--schedule.epochs", "2", "--schedule.warmup-epochs", "1"],
            timeout_s=PATIENCE_S,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Waiting up to 15 minutes for more nodes" in done.stderr
    assert json.loads(done.stdout)["steps"] == 10
