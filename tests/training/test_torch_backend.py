"""By what workers exchange tensors: NCCL refuses to begin where GPUs are only Ray's to count."""

from typing import Any

import pytest
from ray.train.torch import TorchConfig

from bt_ray.training import torch_backend
from bt_ray.training.torch_backend import ByDevice


class Workers:
    """A group of workers that find CUDA, or do not."""

    def __init__(self, has_cuda: bool) -> None:
        self._has_cuda = has_cuda

    def execute_single(self, rank: int, function: Any) -> bool:
        return self._has_cuda


@pytest.mark.parametrize(
    ("chosen", "has_cuda", "connected_by"),
    [("nccl", True, "nccl"), ("nccl", False, "gloo"), ("gloo", True, "gloo")],
)
def test_workers_are_connected_by_what_they_compute_on(
    chosen: str, has_cuda: bool, connected_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[TorchConfig] = []
    monkeypatch.setattr(
        torch_backend._TORCH_BACKEND, "on_start", lambda self, group, config: seen.append(config)
    )
    config = ByDevice(backend=chosen, timeout_s=7)
    config.backend_cls().on_start(Workers(has_cuda), config)
    assert [(found.backend, found.timeout_s) for found in seen] == [(connected_by, 7)]
