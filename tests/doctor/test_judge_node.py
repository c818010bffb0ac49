"""What the doctor says of a node, from made-up facts."""

from dataclasses import replace
from typing import Any

import pytest

from bt_ray.doctor.devices import Devices, read_devices
from bt_ray.doctor.finding import Finding, State
from bt_ray.doctor.judge_node import judge_devices, judge_node
from bt_ray.doctor.node import Disk
from tests.doctor.facts import DEVICES, GB, NODE, V100


def the_one(findings: list[Finding], check: str) -> Finding:
    [one] = [finding for finding in findings if finding.check == check]
    return one


def test_a_healthy_node_is_good() -> None:
    findings = judge_node(NODE)
    assert {finding.state for finding in findings} == {"good"}
    assert not any(finding.advice for finding in findings)
    words = the_one(findings, "devices").found
    assert words == "2 × Tesla V100-SXM2-32GB; driver 550.54.15 (CUDA 12.4); torch for CUDA 12.6"


def test_a_node_without_gpus_is_good() -> None:
    assert judge_devices("a", Devices(known_to_ray=0.0)).found == "no GPU"


@pytest.mark.parametrize(
    ("devices", "state", "advice"),
    [
        ({"driver": "470.57.02", "driver_cuda": "11.4"}, "wrong", "driver 525.60 or newer"),
        ({"torch_cuda": "13.0"}, "wrong", "driver 580.65 or newer"),
        ({"driver_cuda": "13.0"}, "good", ""),
        ({"torch_cuda": "14.0"}, "wrong", "a newer driver"),
        ({"torch_cuda": None}, "wrong", "torch on a computes on CPUs alone"),
        ({"cards": (replace(V100, torch_code=("sm_75", "sm_90")),)}, "wrong", "sm_70; it has"),
        ({"cards": (replace(V100, wanted_interfaces="ib0"),)}, "wrong", "lo, eth0"),
        ({"known_to_ray": 4.0}, "wrong", "a has 4 GPUs, and the driver has 2"),
        ({"cards": ()}, "wrong", "a has 2 GPUs, and the driver has 0"),
        ({"known_to_ray": 1.0}, "note", "1 of the 2 GPUs"),
        ({"cards": (), "fault": "nvidia-smi: No devices were found"}, "wrong", "No devices were"),
    ],
)  # fmt: skip
def test_gpus(devices: dict[str, Any], state: State, advice: str) -> None:
    if devices.get("cards"):
        devices["known_to_ray"] = float(len(devices["cards"]))
    finding = judge_devices("a", replace(DEVICES, **devices))
    assert finding.state == state
    assert advice in finding.advice


@pytest.mark.parametrize(
    ("facts", "check", "state", "advice"),
    [
        ({"shm_bytes": 64 << 20}, "shared memory", "wrong", "--shm-size"),
        ({"shm_bytes": 64 << 20, "store_bytes": None}, "shared memory", "wrong", "--shm-size"),
        ({"shm_bytes": 18 * GB}, "shared memory", "wrong", "needs 18.1 GB"),
        ({"shm_bytes": GB, "store_bytes": 200 << 20}, "shared memory", "good", ""),
        ({"shm_bytes": None}, "shared memory", "note", "no /dev/shm"),
        ({"open_files": 1024}, "open files", "wrong", "`ulimit -n 65536` before `ray start`"),
        ({"open_files": 4096}, "open files", "note", "ulimit"),
        ({"open_files": None}, "open files", "good", ""),
        ({"free_processes": 200}, "processes", "wrong", "limit of pids"),
        ({"free_processes": -5}, "processes", "wrong", "0 more"),
        ({"free_processes": None}, "processes", "good", ""),
        ({"memory_bytes": GB}, "memory", "wrong", "raise the container's memory limit"),
    ],
)
def test_limits(facts: dict[str, Any], check: str, state: State, advice: str) -> None:
    finding = the_one(judge_node(replace(NODE, **facts)), check)
    assert finding.state == state
    assert advice in finding.advice
    assert state == "good" or NODE.place in finding.advice


@pytest.mark.parametrize(
    ("total", "free", "state"),
    [
        (200 * GB, 80 * GB, "good"),
        (200 * GB, GB // 2, "wrong"),
        (200 * GB, 3 * GB, "wrong"),  # Ray stops where 95 % are used
        (20 * GB, 3 * GB, "note"),
        (10_000 * GB, 400 * GB, "note"),
        (0, 80 * GB, "good"),  # such a file system has no size
    ],
)
def test_disks(total: int, free: int, state: State) -> None:
    disk = Disk(purpose="what Ray spills", folder="/tmp/ray", total_bytes=total, free_bytes=free)
    finding = the_one(judge_node(replace(NODE, disks=(disk,))), "disk")
    assert finding.state == state
    assert state == "good" or "/tmp/ray on 10.0.0.2" in finding.advice


def test_the_drivers_tool_is_read() -> None:
    devices = read_devices(
        "a",
        "Tesla V100-SXM2-32GB, 7.0, 550.54.15, 32768\nNVIDIA H100, 9.0, 550.54.15, 81559\n",
        "| NVIDIA-SMI 550.54.15    Driver Version: 550.54.15    CUDA Version: 12.4     |\n",
    )
    assert [(card.name, card.capability) for card in devices.cards] == [
        ("Tesla V100-SXM2-32GB", (7, 0)),
        ("NVIDIA H100", (9, 0)),
    ]
    assert devices.memory_mb == (32768, 81559)
    assert (devices.driver, devices.driver_cuda) == ("550.54.15", "12.4")
