"""LARS on a GPU: what it reads, writes and launches, and that it never waits for the device."""

from contextlib import nullcontext
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import nn

from bt_ray.checkpoints.state import TrainingState
from bt_ray.model.twins import build_twins
from bt_ray.optim import lars
from bt_ray.optim.build import build_optimizer
from bt_ray.optim.lars import LARS
from bt_ray.presets import preset
from tests.gpu.trace import GPU, Trace, fake_gpu, needs_fake_gpu

pytestmark = needs_fake_gpu

SHAPES = [(256, 64, 1, 1), (64, 64, 3, 3), (512, 256)]
PARAMETERS = sum(torch.Size(shape).numel() for shape in SHAPES)
NUMBERS = {"weight_decay": 0.01, "momentum": 0.9, "trust_coefficient": 0.02}


def _optimizer(num_vectors: int = 0) -> LARS:
    def parameter(*shape: int) -> nn.Parameter:
        weight = nn.Parameter(torch.empty(*shape))
        weight.grad = torch.empty_like(weight)
        return weight

    groups = [{"params": [parameter(*shape) for shape in SHAPES]}]
    if num_vectors:
        groups.append({"params": [parameter(64) for _ in range(num_vectors)], "adapt": False})
    optimizer = LARS(groups, lr=0.1, **NUMBERS)
    optimizer.step()  # makes the momenta
    return optimizer


class _Launches:
    """Stands for a kernel: how many numbers each launch was for."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda w, *rest: self.counts.append(w.numel())


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> tuple[_Launches, _Launches]:
    """Of both kernels, which LARS finds on the fake GPU."""
    if find_spec("triton") is None:
        pytest.skip("Triton is for Linux.")
    from bt_ray.optim import lars_kernels

    first, second = _Launches(), _Launches()
    monkeypatch.setattr(lars_kernels, "add_squares", first)
    monkeypatch.setattr(lars_kernels, "move", second)
    monkeypatch.setattr(torch.cuda, "device_of", lambda tensor: nullcontext())
    monkeypatch.setattr(lars, "kernels", lambda device: lars_kernels.update_by_kernels)
    return first, second


@pytest.mark.parametrize(("scaled", "accesses"), [(False, 13), (True, 21)])
def test_without_kernels(monkeypatch: pytest.MonkeyPatch, scaled: bool, accesses: int) -> None:
    monkeypatch.setattr(lars, "kernels", lambda device: None)
    with fake_gpu(), torch.device(GPU), Trace() as traffic:
        optimizer = _optimizer()
        if scaled:
            optimizer.grad_scale, optimizer.found_inf = torch.ones(()), torch.zeros(())  # type: ignore[attr-defined]
        traffic.reset()
        optimizer.step()
    assert not traffic.crossings
    assert traffic.bytes == pytest.approx(4 * accesses * PARAMETERS, rel=1e-3)


def test_two_launches_a_weight_and_nothing_of_its_size(
    launches: tuple[_Launches, _Launches],
) -> None:
    with fake_gpu(), torch.device(GPU), Trace() as traffic:
        optimizer = _optimizer(num_vectors=40)
        for kernel in launches:
            kernel.counts.clear()
        traffic.reset()
        optimizer.step()
    sizes = [torch.Size(shape).numel() for shape in SHAPES]
    assert [kernel.counts for kernel in launches] == [sizes, sizes]
    assert not traffic.crossings
    assert traffic.num_launches <= 16
    assert traffic.largest_new < 1000


@pytest.mark.parametrize(("precision", "most"), [("fp32", 128), ("fp16", 151)])
def test_the_papers_model_is_moved_by_few_launches(
    launches: tuple[_Launches, _Launches],
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    most: int,
) -> None:
    """Two for each of its 56 weights, and few for all the rest; a GradScaler takes ten to look."""
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    settings = preset("imagenet_1000")
    with fake_gpu(), torch.device(GPU), Trace() as traffic:
        twins = build_twins(settings)
        optimizer = build_optimizer(settings, twins)
        scaler = torch.amp.GradScaler("cuda", enabled=precision == "fp16")
        state = TrainingState(twins, optimizer, scaler)
        for _ in range(2):  # the first step makes the momenta
            scaler.scale(torch.zeros(()))
            for parameter in twins.parameters():
                parameter.grad = torch.empty_like(parameter)
            for kernel in launches:
                kernel.counts.clear()
            traffic.reset()
            state.step_optimizer()
    num_weights, num_vectors = (len(group["params"]) for group in optimizer.param_groups)
    assert (num_weights, num_vectors) == (56, 110)
    assert sum(len(kernel.counts) for kernel in launches) == 2 * num_weights
    assert not traffic.crossings
    assert 2 * num_weights + traffic.num_launches <= most


def test_a_gradient_in_the_order_of_its_weight_is_not_copied(
    launches: tuple[_Launches, _Launches],
) -> None:
    """As of a 1×1 kernel, whose strides differ where its order does not; others are copied."""
    with fake_gpu(), torch.device(GPU), Trace() as traffic:
        weights = [
            nn.Parameter(torch.empty(64, 32, k, k).to(memory_format=torch.channels_last))
            for k in (1, 3)
        ]
        for weight in weights:
            weight.grad = torch.empty(weight.shape)
        optimizer = LARS([{"params": weights}], lr=0.1, **NUMBERS)
        optimizer.step()
        traffic.reset()
        optimizer.step()
    assert launches[0].counts[-2:] == [64 * 32, 64 * 32 * 9]
    assert not traffic.crossings
    assert 8 * weights[1].numel() < traffic.bytes < 8 * weights[1].numel() + 4000


def test_an_fp16_step_never_waits(
    launches: tuple[_Launches, _Launches], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unscaling, skipping, counting and the scale; the gradients are only looked at besides."""
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    with fake_gpu(), torch.device(GPU), Trace() as traffic:
        optimizer = _optimizer(num_vectors=3)
        state = TrainingState(nn.Identity(), optimizer, torch.amp.GradScaler("cuda"))
        state.scaler.scale(torch.zeros(()))
        traffic.reset()
        state.step_optimizer()
    assert launches[0].counts[-3:] == launches[1].counts[-3:]
    assert not traffic.crossings
    assert traffic.bytes == pytest.approx(8 * PARAMETERS, rel=0.1)
    assert traffic.largest_new < 1000
