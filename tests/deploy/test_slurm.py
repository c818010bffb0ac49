"""The Slurm script: what it starts, how it stops, and what it says when it cannot."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.cluster.nodes import HEAD, address, make_nodes, name

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "deploy" / "slurm" / "pretrain.sbatch"
SLURM = Path(__file__).parent / "slurm"
"""Stand-ins for Slurm's commands."""


def _job(step: Path, python: Path, nodes: Sequence[str]) -> dict[str, str]:
    """The environment that Slurm gives a job's script."""
    return {
        "PATH": f"{SLURM}:{os.environ['PATH']}",
        "PYTHON": str(python),
        "SLURM_CPUS_ON_NODE": "3",
        "SLURM_JOB_ID": "77",
        "SLURM_JOB_NODELIST": ",".join(nodes),
        "SLURM_JOB_NUM_NODES": str(len(nodes)),
        "STEP": str(step),
    }


@pytest.fixture
def stub(tmp_path: Path) -> dict[str, str]:
    """A job of one node whose `ray symmetric-run` and `python -m pipelines.pretrain` are stubs."""
    programs = {
        "ray": '#!/bin/bash\n[[ $RAY_AUTH_MODE == token && ${#RAY_AUTH_TOKEN} == 64 ]] || exit 9\n'
        'echo "ray $*" >&2\n[[ ${NO_RAY-} ]] && exit 1\n'
        'while [[ $1 != -- ]]; do shift; done\nshift\n"$@"\n',
        "python": f'#!/bin/bash\n[[ $1 == -c ]] && exec {sys.executable} "$@"\n'
        "trap 'exit 143' TERM\nsleep 0.2\ntouch \"$STEP/began\"\n"
        'echo "$RAY_ADDRESS $*" >&2\n[[ ${EXIT-} ]] && exit $EXIT\nsleep 60 & wait $!\n',
    }  # fmt: skip
    for program, text in programs.items():
        (tmp_path / program).write_text(text)
        (tmp_path / program).chmod(0o755)
    job = _job(tmp_path, tmp_path / "python", ["node1"])
    return {**os.environ, **job, "HEAD_IP": address(HEAD), "TMPDIR": str(tmp_path)}


def _run(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(SCRIPT), *arguments]
    return subprocess.run(
        command, env=env, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30
    )


def test_ray_starts_on_every_node_and_the_command_on_the_first(stub: dict[str, str]) -> None:
    done = _run({**stub, "EXIT": "0"}, "digits", "--name", "two words")
    assert done.returncode == 0, done.stderr
    ray, python = done.stderr.splitlines()
    assert ray.startswith(
        f"ray symmetric-run --address {address(HEAD)}:6379 --min-nodes 1 --num-cpus 3 -- "
    )
    assert python == f"{address(HEAD)}:6379 -m pipelines.pretrain digits --name two words"


@pytest.mark.parametrize("code", [1, 2])
def test_the_exit_code_is_that_of_the_command(stub: dict[str, str], code: int) -> None:
    assert _run({**stub, "EXIT": str(code)}, "digits").returncode == code


@pytest.mark.parametrize(
    ("number", "is_queued_again"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)]
)
def test_a_signal_stops_the_command_and_the_time_limit_queues_again(
    stub: dict[str, str], number: signal.Signals, is_queued_again: bool
) -> None:
    step = Path(stub["STEP"])
    job = subprocess.Popen(["bash", str(SCRIPT), "digits"], env=stub, cwd=ROOT)
    while not (step / "began").exists():
        assert job.poll() is None
        time.sleep(0.05)
    job.send_signal(number)
    assert job.wait(timeout=30) == 143
    assert (step / "requeued").exists() == is_queued_again
    assert not list(step.glob("tmp.*"))


def test_an_address_that_no_other_node_reaches_is_refused(stub: dict[str, str]) -> None:
    done = _run({**stub, "HEAD_IP": "127.0.1.1"}, "digits")
    assert done.returncode == 2
    assert "127.0.1.1" in done.stderr
    assert "set HEAD_IP to the address of node1" in done.stderr


def test_a_cluster_that_does_not_start_is_said(stub: dict[str, str]) -> None:
    done = _run({**stub, "NO_RAY": "1"}, "digits")
    assert done.returncode == 1
    assert "Ray did not start on 1 nodes" in done.stderr


@pytest.mark.cluster
def test_two_nodes_train_together_until_the_time_is_up(tmp_path: Path) -> None:
    """A worker on each; the signal saves the steps that were done, and the job is queued again."""
    step, runs = tmp_path / "step", tmp_path / "runs"
    step.mkdir()
    env = _job(step, Path(sys.executable), [name(HEAD), name(2)])
    with make_nodes(tmp_path / "logs", shared=[tmp_path]) as nodes:
        for number in (HEAD, 2):
            nodes.space(number)
        nodes.begin(2, [str(SLURM / "slurmd")], env)
        command = [
            "bash", str(SCRIPT), "digits", "--name", "there", "--storage", str(runs),
            "--data.global-batch", "64", "--schedule.epochs", "5000",
            "--training.checkpoint-every-epochs", "5000", "--training.probe-every-epochs", "5000",
            "--training.log-every-steps", "1",
            "--scaling.workers", "2", "--scaling.cpus-per-worker", "2",
        ]  # fmt: skip
        with (tmp_path / "job.log").open("w") as log:
            job = nodes.begin(HEAD, command, env, stdout=log, stderr=subprocess.STDOUT)
        metrics = runs / "there" / "metrics.jsonl"
        while not metrics.is_file() or metrics.read_text().count("\n") < 5:
            assert job.poll() is None, (tmp_path / "job.log").read_text()[-3000:]
            time.sleep(0.5)
        nodes.signal(job, signal.SIGUSR1)
        assert job.wait(timeout=120) == 143, (tmp_path / "job.log").read_text()[-3000:]
    assert (step / "requeued").read_text() == "77\n"
    logged = json.loads(metrics.read_text().splitlines()[-1])["step"]
    summary = json.loads((runs / "there" / "summary.json").read_text())
    assert logged <= summary["steps"] < summary["total_steps"]
    assert list((runs / "there" / "train").glob("checkpoint_*/*"))


def test_scripts_are_clean() -> None:
    shellcheck = shutil.which(
        "shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    )
    if shellcheck is None:
        pytest.skip("needs shellcheck")
    scripts = [str(SCRIPT), *map(str, sorted(SLURM.iterdir()))]
    options = ["--severity=warning", "--exclude=SC1091,SC2154"]  # what `source` brings
    done = subprocess.run(
        [shellcheck, *options, *scripts], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
