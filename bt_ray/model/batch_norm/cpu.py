"""Batch norm's kernels on a CPU: torch's own, which pass over the rows only a few times.

The moments of a view are its mean and its biased variance.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from bt_ray.model.batch_norm.views import count_rows, room_for, split_moments


def describe(parts: Sequence[Tensor], eps: float) -> Tensor:
    """(2·views·c + 1,): means and variances of the views, float32 or better, and the rows."""
    wide = torch.promote_types(parts[0].dtype, torch.float32)
    like = torch.zeros(parts[0].shape[1], dtype=wide)  # says in which precision to count
    moments = [torch.batch_norm_update_stats(part, like, like.clone(), 0.0) for part in parts]
    means, variances = zip(*moments, strict=True)
    return torch.cat([*means, *variances, like.new_tensor([float(count_rows(parts[0]))])])


def combine(
    table: Tensor,
    num_views: int,
    running: tuple[Tensor, Tensor] | None,
    momentum: float,
    eps: float,
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Means and variances of all workers' rows, and how many those are.

    Source: Chan, Golub and LeVeque 1983, whose pairwise update does not cancel.
    """
    counts = table[:, -1:]
    of_means, of_variances = table[:, :-1].chunk(2, dim=1)
    total = counts.sum(0)
    grand = (of_means * counts).sum(0) / total
    spread = ((of_variances + (of_means - grand) ** 2) * counts).sum(0) / total
    means, variances = grand.chunk(num_views), spread.chunk(num_views)
    if running is not None:
        unbiased = (spread * total / (total - 1)).chunk(num_views)
        for mean, variance in zip(means, unbiased, strict=True):
            running[0].lerp_(mean.to(running[0].dtype), momentum)
            running[1].lerp_(variance.to(running[1].dtype), momentum)
    return (*means, *variances), total


def normalize(
    parts: Sequence[Tensor],
    moments: Sequence[Tensor],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    """(x − mean) / √(variance + eps) · weight + bias."""
    means, variances = split_moments(moments)
    scale = _scale(weight, means[0])
    shift = None if bias is None else bias.to(scale.dtype)
    output = room_for(parts)
    for part, mean, variance, out in zip(
        parts, means, variances, output.chunk(len(parts)), strict=True
    ):
        _normalize(part, mean, variance, scale, shift, eps=eps, out=out)
    return output


def reduce(
    gradients: Sequence[Tensor],
    parts: Sequence[Tensor],
    moments: Sequence[Tensor],
    weight: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Sums over the rows, (2, views, c): of gradient · normalised x, and of the gradient."""
    means, variances = split_moments(moments)
    shares = torch.stack(
        [
            torch.stack(
                torch.ops.aten.native_batch_norm_backward(
                    gradient, part, None, mean, variance, None, None, False, eps,
                    [False, True, True],
                )[1:]
            )
            for gradient, part, mean, variance in zip(
                gradients, parts, means, variances, strict=True
            )
        ],
        dim=1,
    )  # fmt: skip
    if weight is None:
        return shares, None, None
    grad_weight, grad_bias = shares.sum(1)
    return shares, grad_weight, grad_bias


def input_gradient(
    gradients: Sequence[Tensor],
    parts: Sequence[Tensor],
    moments: Sequence[Tensor],
    weight: Tensor | None,
    sums: Tensor,
    counts: Tensor,
    eps: float,
) -> Tensor:
    """Of every row: its own part, and what goes through mean and variance to every row."""
    means, variances = split_moments(moments)
    products, constants = sums / counts
    scale = _scale(weight, means[0])
    zero, one = torch.zeros_like(scale), torch.ones_like(scale)
    output, through_moments = room_for(parts), torch.empty_like(parts[0])
    for view, out in enumerate(output.chunk(len(parts))):
        factors = scale * torch.rsqrt(variances[view] + eps)
        _normalize(gradients[view], zero, one, factors, None, eps=0.0, out=out)
        _normalize(
            parts[view], means[view], variances[view], -factors * products[view],
            -factors * constants[view], eps=eps, out=through_moments,
        )  # fmt: skip
        out.add_(through_moments)
    return output


def _normalize(
    x: Tensor, mean: Tensor, variance: Tensor, scale: Tensor, shift: Tensor | None, *,
    eps: float, out: Tensor,
) -> None:  # fmt: skip
    """Writes (x − mean) / √(variance + eps) · scale + shift, by channel."""
    torch.ops.aten.native_batch_norm.out(
        x, scale, shift, mean, variance, False, 0.0, eps,
        out=out, save_mean=mean.new_empty(0), save_invstd=mean.new_empty(0),
    )  # fmt: skip


def _scale(weight: Tensor | None, like: Tensor) -> Tensor:
    return torch.ones_like(like) if weight is None else weight.to(like.dtype)
