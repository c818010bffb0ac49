from collections.abc import Iterator

import pytest
import torch

from bt_ray.config import TrainingSettings
from bt_ray.precision import autocast, choose_algorithms, precision_on
from bt_ray.presets import PRESETS, preset


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    benchmark = torch.backends.cudnn.benchmark
    yield
    torch.backends.cudnn.benchmark = benchmark
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_gpu_takes_the_fastest_algorithms_or_those_that_repeat(
    deterministic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose_algorithms(TrainingSettings(deterministic=deterministic), torch.device("cuda"))
    assert torch.backends.cudnn.benchmark is not deterministic
    assert torch.are_deterministic_algorithms_enabled() is deterministic


def test_a_cpu_needs_neither() -> None:
    choose_algorithms(TrainingSettings(deterministic=True), torch.device("cpu"))
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    ("capability", "best"),
    [((6, 0), "fp32"), ((7, 0), "fp16"), ((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")],
)
def test_auto_on_a_gpu_is_the_fastest_arithmetic_that_it_has(
    capability: tuple[int, int], best: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert precision_on(TrainingSettings(), torch.device("cuda")) == best
    assert precision_on(TrainingSettings(precision="fp32"), torch.device("cuda")) == "fp32"


@pytest.mark.parametrize(
    ("machine", "capability", "has_avx512_bf16", "has_amx", "by_onednn", "told", "best"),
    [
        ("x86_64", "AVX512", True, False, True, "", "bf16"),  # AMD Zen 4
        ("x86_64", "AVX512", False, True, True, "", "bf16"),
        ("x86_64", "AVX512", False, False, True, "", "fp32"),  # Skylake: oneDNN emulates
        ("x86_64", "AVX2", False, False, False, "", "fp32"),
        ("x86_64", "AVX2", True, True, False, "AVX2", "fp32"),
        ("x86_64", "AVX512", True, True, True, "avx512_core", "fp32"),
        ("aarch64", "DEFAULT", False, False, True, "", "bf16"),  # Graviton 3
        ("aarch64", "DEFAULT", False, False, False, "", "fp32"),
    ],
)
def test_auto_on_a_cpu_is_bf16_where_it_has_instructions_that_torch_uses(
    machine: str, capability: str, has_avx512_bf16: bool, has_amx: bool, by_onednn: bool,
    told: str, best: str, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_amx)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: by_onednn)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", told)
    settings = TrainingSettings()
    assert precision_on(settings, torch.device("cpu")) == best
    assert autocast(settings, torch.device("cpu"))._enabled == (best == "bf16")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_leaves_the_choice_to_the_machine(name: str) -> None:
    assert preset(name).training.precision == "auto"
