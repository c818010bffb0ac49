"""Linux is not asked for: what only Linux has may be missing, and an Apple GPU is declined."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bt_ray.config import override
from bt_ray.presets import preset
from bt_ray.training import cluster, local
from bt_ray.training.local import choose_device
from bt_ray.training.on_cpu import _say, slow_precision, warn_on_cpu

DECLINED = "An Apple GPU (MPS) is here and is not used"
ROOT = Path(__file__).parents[1]
ELSEWHERE = """
import os, pkgutil, socket, sys
from importlib import import_module

OURS = ("bt_ray", "pipelines", "tune_spaces")


def import_all():
    for package in OURS:
        for found in pkgutil.walk_packages(import_module(package).__path__, f"{package}."):
            import_module(found.name)


import_all()  # and with ours, all libraries, which know how to live elsewhere
for name in [name for name in sys.modules if name.split(".")[0] in OURS]:
    del sys.modules[name]
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
for name in [name for name in dir(os) if name.lower().startswith("sched_")]:
    delattr(os, name)
del socket.AF_UNIX

is_importing = True


def hide_proc(event, arguments):
    if is_importing and event in ("open", "os.listdir", "os.scandir"):
        if str(arguments[0]).startswith(("/proc", "/sys/")):
            raise FileNotFoundError(arguments[0])


sys.addaudithook(hide_proc)
import_all()
is_importing = False  # psutil reads /proc, where there is one

from pipelines.pretrain import main
sys.argv = ["pretrain", "digits", "--storage", sys.argv[1], *sys.argv[2:]]
main()
"""


@pytest.mark.cluster
def test_all_modules_are_imported_and_a_run_is_trained_without_what_only_linux_has(
    tmp_path: Path,
) -> None:
    flags = ("--schedule.epochs", "2", "--schedule.warmup-epochs", "1", "--scaling.workers", "0")
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(tmp_path), *flags],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('{"run_id"')


@pytest.mark.parametrize(
    ("accelerator", "has_cuda", "device", "is_said"),
    [("auto", False, "cpu", True), ("cpu", False, "cpu", False), ("auto", True, "cuda", False)],
)
def test_an_apple_gpu_is_declined_with_a_sentence_said_once(
    accelerator: str, has_cuda: bool, device: str, is_said: bool,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    monkeypatch.setattr(local, "check_cards", lambda *_: None)
    monkeypatch.setattr(local, "examine", lambda: None)
    _say.cache_clear()
    settings = override(preset("digits"), {"scaling.accelerator": accelerator})
    with caplog.at_level(logging.WARNING):
        assert {choose_device(settings).type for _ in range(2)} == {device}
    assert caplog.text.count(DECLINED) == len(caplog.records) == is_said


def test_workers_on_a_cluster_that_is_started_here_decline_it_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cluster, "_LOCALLY", {})
    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster.ray, "init", lambda **_: None)
    monkeypatch.setattr(cluster.ray, "cluster_resources", lambda: {"CPU": 9.0})
    _say.cache_clear()
    cluster.connect(preset("digits"))
    assert DECLINED in caplog.text


@pytest.mark.parametrize(
    ("machine", "capability", "precision", "is_said"),
    [
        ("x86_64", "AVX2", "bf16", True),
        ("x86_64", "AVX512", "bf16", False),
        ("x86_64", "AVX2", "fp32", False),
        ("arm64", "DEFAULT", "bf16", False),
    ],
)
def test_bf16_on_a_cpu_without_instructions_for_it_is_called_slow(
    machine: str, capability: str, precision: str, is_said: bool,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    has_it = capability != "AVX2"
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: has_it)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_it)
    settings = override(preset("cifar10"), {"training.precision": precision})
    _say.cache_clear()
    warn_on_cpu(settings)
    assert ("Give --training.precision fp32" in caplog.text) == is_said
    assert (slow_precision(settings) is not None) == is_said
