"""The contract notices what it is there for, and batch norm keeps it."""

import pytest
import torch
from torch import Tensor, nn

from bt_ray.model.batch_norm import globalize_batch_norm
from tests.gpu.branch import as_on_cuda
from tests.gpu.contract import CudaContract

aten = torch.ops.aten


@pytest.fixture(autouse=True)
def _branch() -> None:
    """In place of every test's: these compare a CPU with and without the contract."""


def _batch_norm_out(x: Tensor, save_mean: Tensor, save_invstd: Tensor) -> Tensor:
    mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
    y = torch.empty_like(x)
    aten.native_batch_norm.out(
        x, None, None, mean, variance, False, 0.0, 1e-5,
        out=y, save_mean=save_mean, save_invstd=save_invstd,
    )  # fmt: skip
    return y


def test_two_outputs_in_one_memory_are_refused() -> None:
    """As a CPU forgives: of running statistics, its kernel writes neither."""
    x, unused = torch.randn(4, 3, 5, 5) * 3 + 5, torch.empty(0)
    assert abs(float(_batch_norm_out(x, unused, unused).mean())) < 1e-5
    with CudaContract(), pytest.raises(RuntimeError, match="share memory"):
        _batch_norm_out(x, unused, unused)
    with CudaContract():
        y = _batch_norm_out(x, torch.empty(0), torch.empty(0))
    assert abs(float(y.mean())) < 1e-5


def test_backward_without_saved_moments_is_refused() -> None:
    x = torch.randn(4, 3)
    arguments = (x, x, None, x.mean(0), x.var(0), None, None, False, 1e-5, [False, True, True])
    aten.native_batch_norm_backward(*arguments)
    with CudaContract(), pytest.raises(RuntimeError, match="save_mean should"):
        aten.native_batch_norm_backward(*arguments)


def _step(norm: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    x = x.clone().requires_grad_()
    y = norm(x)
    (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    assert x.grad is not None
    return (
        y.detach(),
        x.grad,
        *norm.buffers(),
        *(p.grad for p in norm.parameters() if p.grad is not None),
    )


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("tracks", [True, False])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_both_devices_kernels_agree(
    affine: bool, tracks: bool, layout: torch.memory_format, dtype: torch.dtype
) -> None:
    """Rows of AMP's types, parameters in float32; with and without what batch norm may lack."""
    x = (torch.randn(6, 3, 4, 4) * 3 + 5).to(dtype, memory_format=layout)
    norms = [
        globalize_batch_norm(nn.BatchNorm2d(3, affine=affine, track_running_stats=tracks), views=2)
        for _ in range(2)
    ]
    expected = _step(norms[0], x)
    with as_on_cuda():
        got = _step(norms[1], x)
    bound = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}[dtype]
    assert len(got) == len(expected) >= 2
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == other.dtype
        assert one.stride() == other.stride()
        torch.testing.assert_close(one, other, rtol=bound, atol=bound)


def test_a_gradient_in_another_layout_is_brought_into_the_kernels() -> None:
    """That of a mean over places arrives expanded, without memory of its own."""
    norm = globalize_batch_norm(nn.BatchNorm2d(3), views=2)
    x = torch.randn(4, 3, 5, 5).contiguous(memory_format=torch.channels_last).requires_grad_()
    with as_on_cuda():
        norm(x).mean((2, 3)).square().sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
