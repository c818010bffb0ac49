"""Batch norm's kernels on a CUDA GPU: those of torch's SyncBatchNorm.

The moments of a view are its mean and 1/√(variance + eps). Nothing is copied between host and
device, and nothing is waited for. What they ask of their arguments is not checked by all of them:
statistics and sums lie densely, counts are int32 in backward, gradients lie like the inputs.
Each view's input gradient is written by a kernel that allocates, and copied once, into one tensor.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from bt_ray.model.batch_norm.views import count_rows, room_for, split_moments


def describe(parts: Sequence[Tensor], eps: float) -> Tensor:
    """(2·views·c + 1,): means and inverse deviations of the views, float32, and the rows."""
    means, scales = zip(*(torch.batch_norm_stats(part, eps) for part in parts), strict=True)
    return torch.cat(
        [*means, *scales, constant(count_rows(parts[0]), means[0].dtype, means[0].device)]
    )


def combine(
    table: Tensor,
    num_views: int,
    running: tuple[Tensor, Tensor] | None,
    momentum: float,
    eps: float,
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Means and inverse deviations of all workers' rows, and the rows of each worker, int32 (W,).

    The kernel takes the type of its sums from its first argument where there are no running
    statistics: that of the moments is wide enough to count in.
    """
    counts = table[:, -1]
    columns = table[:, :-1].chunk(2 * num_views, dim=1)
    mean, variance = (None, None) if running is None else running
    moments = [
        torch.batch_norm_gather_stats_with_counts(
            table, columns[view], columns[num_views + view], mean, variance, momentum, eps, counts
        )
        for view in range(num_views)
    ]
    means, scales = zip(*moments, strict=True)
    return (*means, *scales), counts.to(torch.int32)


def normalize(
    parts: Sequence[Tensor],
    moments: Sequence[Tensor],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    """(x − mean) / √(variance + eps) · weight + bias."""
    output = room_for(parts)
    for part, out, mean, scale in zip(
        parts, output.chunk(len(parts)), *split_moments(moments), strict=True
    ):
        torch.batch_norm_elemt(part, weight, bias, mean, scale, eps, out=out)
    return output


def reduce(
    gradients: Sequence[Tensor],
    parts: Sequence[Tensor],
    moments: Sequence[Tensor],
    weight: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Sums over the rows, (2·views·c,): of the gradient, and of gradient · (x − mean)."""
    affine = weight is not None
    of_views = [
        torch.batch_norm_backward_reduce(gradient, part, mean, scale, weight, True, affine, affine)
        for gradient, part, mean, scale in zip(
            gradients, parts, *split_moments(moments), strict=True
        )
    ]
    constants, products, of_weight, of_bias = zip(*of_views, strict=True)
    shares = torch.cat([*constants, *products])
    if not affine:
        return shares, None, None
    return shares, sum(of_weight[1:], of_weight[0]), sum(of_bias[1:], of_bias[0])


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
    return torch.cat(
        [
            torch.batch_norm_backward_elemt(
                gradient, part, mean, scale, weight, constants, products, counts
            )
            for gradient, part, mean, scale, constants, products in zip(
                gradients,
                parts,
                *split_moments(moments),
                *split_moments(sums.chunk(2 * len(parts))),
                strict=True,
            )
        ]
    )


@lru_cache
def constant(number: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A (1,) that is made on the device once."""
    return torch.full((1,), number, dtype=dtype, device=device)
