from collections.abc import Iterator

import pytest
import torch

from bt_ray.config import TrainingSettings
from bt_ray.precision import choose_algorithms


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
