"""CPUs are those that the process may use, not the machine's."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bt_ray.cpu import count
from bt_ray.cpu.count import affine_cpus, available_cpus

ROOT = Path(__file__).parents[2]
Files = dict[str, str]


@pytest.fixture
def cpus_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """CPUs of a process on a machine of 64, in cgroups of these files."""

    def counting(own: str, files: Files) -> int:
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            file = tmp_path / "cgroup" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        monkeypatch.setattr(count, "_CGROUPS", tmp_path / "cgroup")
        monkeypatch.setattr(count, "_OWN_CGROUPS", tmp_path / "own")
        monkeypatch.setattr(count, "affine_cpus", lambda: 64)
        return available_cpus()

    return counting


@pytest.mark.parametrize(
    ("own", "files", "cpus"),
    [
        # Version 2: a container, whose root is its own; with part of a CPU; unlimited.
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 64),
        ("0::/\n", {}, 64),
        # A Slurm step or a systemd unit: the least of its own and those above counts.
        ("0::/a/b\n", {"cpu.max": "max 100000", "a/cpu.max": "300000 100000",
                       "a/b/cpu.max": "max 100000"}, 3),
        ("0::/a/b\n", {"a/cpu.max": "800000 100000", "a/b/cpu.max": "400000 100000"}, 4),
        # A path of the host that the container does not see.
        ("0::/../../kubepods/pod1\n", {"cpu.max": "200000 100000"}, 2),
        # Version 1, alone and beside version 2.
        ("3:cpu,cpuacct:/docker/1\n", {"cpu,cpuacct/cpu.cfs_quota_us": "200000\n",
                                       "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}, 2),
        ("1:cpu:/a\n0::/\n", {"cpu/a/cpu.cfs_quota_us": "500000",
                              "cpu/a/cpu.cfs_period_us": "100000"}, 5),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ("1:name=a:b:/x\n", {"cpu.max": "100000 100000"}, 64),
        ("0::/\n", {"cpu.max": "torn"}, 64),
    ],
)  # fmt: skip
def test_cgroups_limit_the_cpus(
    cpus_in: Callable[..., int], own: str, files: Files, cpus: int
) -> None:
    assert cpus_in(own, files) == cpus


def test_the_affinity_limits_them_too(monkeypatch: pytest.MonkeyPatch) -> None:
    one = {min(os.sched_getaffinity(0))}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: one)
    assert affine_cpus() == available_cpus() == 1


def test_where_there_is_neither_the_machines_are_counted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(count, "_OWN_CGROUPS", tmp_path / "absent")
    assert available_cpus() == (os.cpu_count() or 1)


@pytest.mark.run
def test_a_process_on_one_cpu_starts_threads_for_one() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from bt_ray.training.worker import _threads\n"
        "from bt_ray.presets import preset\n"
        "print(_threads(preset('digits'), 1))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert done.stdout.strip() == b"1"


def test_nothing_else_counts_the_machines_cpus() -> None:
    places = [*ROOT.glob("bt_ray/**/*.py"), *ROOT.glob("pipelines/**/*.py")]
    counting = [
        str(file.relative_to(ROOT))
        for file in places
        if re.search(r"cpu_count|getaffinity", file.read_text())
    ]
    assert counting == ["bt_ray/cpu/count.py"]
