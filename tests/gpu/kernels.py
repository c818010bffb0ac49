"""The five operators of torch's SyncBatchNorm for CPUs and for tensors without memory.

Torch has them for CUDA alone. What their CUDA kernels (Normalization.cuh) expect of their arguments
is checked here, so that the code that calls them on a GPU runs on a CPU and fails like there.
"""

from functools import cache

import torch
from torch import Tensor

_NAMES = (
    "batch_norm_stats",
    "batch_norm_gather_stats_with_counts",
    "batch_norm_elemt",
    "batch_norm_elemt.out",
    "batch_norm_backward_reduce",
    "batch_norm_backward_elemt",
)
NoneOr = Tensor | None


@cache
def register() -> torch.library.Library:
    """Registers the operators, for CPU and Meta alike; once a process."""
    library = torch.library.Library("aten", "IMPL")
    for name in _NAMES:
        function = globals()[name.replace(".", "_")]
        for key in ("CPU", "Meta"):
            library.impl(name, function, key)
    return library


def _wide(x: Tensor) -> torch.dtype:
    """What CUDA kernels sum numbers of `x`'s type in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _by_channel(values: Tensor, like: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (like.dim() - 2))


def _rows(x: Tensor) -> list[int]:
    return [0, *range(2, x.dim())]


def _require_dense(*tensors: Tensor) -> None:
    for x in tensors:
        channels_last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
        assert channels_last or x.is_contiguous(), f"strides {x.stride()} of {tuple(x.shape)}"


def _require_alike(x: Tensor, *others: Tensor) -> None:
    """Kernels of channels-last images read all of them as such."""
    for other in others:
        assert other.shape == x.shape
        assert other.dtype == x.dtype
        for length, ours, theirs in zip(x.shape, x.stride(), other.stride(), strict=True):
            assert length == 1 or ours == theirs, f"{x.stride()} and {other.stride()}"


def _require_statistics(x: Tensor, *values: Tensor) -> None:
    for value in values:
        assert value.shape == (x.shape[1],)
        assert value.dtype == _wide(x), f"{value.dtype} of rows of {x.dtype}"
        assert value.is_contiguous()


def _require_affine(x: Tensor, *values: NoneOr) -> None:
    for value in values:
        if value is not None:
            assert value.dtype in (x.dtype, _wide(x))
            assert value.is_contiguous()


def batch_norm_stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    _require_dense(x)
    variance, mean = torch.var_mean(x.to(_wide(x)), dim=_rows(x), correction=0)
    return mean, torch.rsqrt(variance + eps)


def batch_norm_gather_stats_with_counts(
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    running_mean: NoneOr,
    running_var: NoneOr,
    momentum: float,
    eps: float,
    counts: Tensor,
) -> tuple[Tensor, Tensor]:
    scalar = x.dtype if running_mean is None else running_mean.dtype
    assert counts.dtype == scalar, f"counts are {counts.dtype}, not {scalar}"
    assert mean.dtype == invstd.dtype == (scalar if scalar == torch.float64 else torch.float32)
    assert mean.shape == invstd.shape == (len(counts), mean.shape[1])
    n = counts[:, None].to(mean.dtype)
    total = n.sum()
    grand = (mean * n).sum(0) / total
    variance = invstd.pow(-2) - eps
    squares = ((variance + (mean - grand).square()) * n).sum(0)
    if running_mean is not None and running_var is not None:
        running_mean.lerp_(grand.to(running_mean.dtype), momentum)
        running_var.lerp_((squares / (total - 1)).to(running_var.dtype), momentum)
    return grand, torch.rsqrt(squares / total + eps)


def batch_norm_elemt(
    x: Tensor, weight: NoneOr, bias: NoneOr, mean: Tensor, invstd: Tensor, eps: float
) -> Tensor:
    return batch_norm_elemt_out(x, weight, bias, mean, invstd, eps, out=torch.empty_like(x))


def batch_norm_elemt_out(
    x: Tensor,
    weight: NoneOr,
    bias: NoneOr,
    mean: Tensor,
    invstd: Tensor,
    eps: float,
    *,
    out: Tensor,
) -> Tensor:
    _require_dense(x, out)
    _require_alike(x, out)
    _require_statistics(x, mean, invstd)
    _require_affine(x, weight, bias)
    wide = _wide(x)
    y = (x.to(wide) - _by_channel(mean, x)) * _by_channel(invstd, x)
    if weight is not None:
        y = y * _by_channel(weight.to(wide), x)
    if bias is not None:
        y = y + _by_channel(bias.to(wide), x)
    return out.copy_(y)


def batch_norm_backward_reduce(
    gradient: Tensor,
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    weight: NoneOr,
    input_g: bool,
    weight_g: bool,
    bias_g: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _require_dense(x)
    _require_alike(x, gradient)
    _require_statistics(x, mean, invstd)
    _require_affine(x, weight)
    wide = _wide(x)
    g = gradient.to(wide)
    sum_dy = g.sum(_rows(x))
    sum_dy_xmu = (g * (x.to(wide) - _by_channel(mean, x))).sum(_rows(x))
    nothing = mean.new_empty(0)  # what CUDA returns of parameters that there are none of
    has = weight is not None
    like = wide if weight is None else weight.dtype
    return (
        sum_dy if input_g else nothing,
        sum_dy_xmu if input_g else nothing,
        (sum_dy_xmu * invstd).to(like) if weight_g and has else nothing,
        sum_dy.to(like, copy=True) if bias_g and has else nothing,
    )


def batch_norm_backward_elemt(
    gradient: Tensor,
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    weight: NoneOr,
    sum_dy: Tensor,
    sum_dy_xmu: Tensor,
    count: Tensor,
) -> Tensor:
    _require_dense(x)
    _require_alike(x, gradient)
    _require_statistics(x, mean, invstd, sum_dy, sum_dy_xmu)
    _require_affine(x, weight)
    assert count.dtype == torch.int32
    assert count.is_contiguous()
    wide = _wide(x)
    total = count.sum()
    scale = invstd if weight is None else invstd * weight.to(wide)
    through_variance = invstd.square() * sum_dy_xmu / total
    y = gradient.to(wide) - _by_channel(sum_dy / total, x)
    y = y - (x.to(wide) - _by_channel(mean, x)) * _by_channel(through_variance, x)
    return torch.empty_like(x).copy_(y * _by_channel(scale, x))
