"""Batch normalisation with the statistics of the global batch, on any device and backend.

torch's SyncBatchNorm does this on GPUs alone and refuses CPU tensors; this one needs nothing
but an all-gather and an all-reduce, so that the same code is tested with gloo and run with
NCCL.
"""

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from bt_ray.collectives import all_reduce_sum, world_size


class GlobalBatchNorm(_BatchNorm):
    """Batch normalisation of (n, c, …) inputs over the rows of all workers.

    Running statistics are those of the global batch (unbiased variance, as in torch) and so
    equal on all workers. In eval mode, or with one worker, it is torch's own.
    """

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2:
            raise ValueError(f"Expected an input of (n, c, …), got {tuple(x.shape)}.")

    def forward(self, x: Tensor) -> Tensor:
        """The normalised input, same shape and dtype."""
        if not self.training or world_size() == 1:
            return super().forward(x)
        self._check_input_dim(x)
        output, mean, variance, count = _GlobalNormalize.apply(x, self.weight, self.bias, self.eps)
        if self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                momentum = cast(float, self.momentum)
                unbiased = variance * count / (count - 1)
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
                self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)
                if self.num_batches_tracked is not None:
                    self.num_batches_tracked.add_(1)
        return output  # type: ignore[no-any-return]


class _GlobalNormalize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        axes = _all_but_channels(x)
        wide = x if x.dtype == torch.float64 else x.float()
        variance, mean = torch.var_mean(wide, dim=axes, correction=0)
        count = torch.full_like(mean[:1], x.numel() / x.shape[1])
        mean, variance, total = _combine(mean, variance, count)
        output = functional.batch_norm(
            x, mean, variance, _as(weight, mean), _as(bias, mean), training=False, eps=eps
        )
        ctx.save_for_backward(x, weight, mean, torch.rsqrt(variance + eps), total)
        ctx.mark_non_differentiable(mean, variance, total)
        return output, mean, variance, total

    @staticmethod
    def backward(
        ctx: Any, gradient: Tensor, *_: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        x, weight, mean, inverse_std, count = ctx.saved_tensors
        axes = _all_but_channels(x)
        wide = gradient.to(mean.dtype)
        centered = x.to(mean.dtype) - _per_channel(mean, x)
        # Local sums are the workers' shares of the gradients of bias and weight …
        sums = torch.stack([wide.sum(axes), (wide * centered).sum(axes) * inverse_std])
        # … and their total is what every row's gradient depends on.
        mean_gradient, mean_product = all_reduce_sum(sums) / count
        scale = inverse_std if weight is None else inverse_std * weight.to(mean.dtype)
        grad_x = _per_channel(scale, x) * (
            wide
            - _per_channel(mean_gradient, x)
            - centered * _per_channel(inverse_std * mean_product, x)
        )
        if weight is None:
            return grad_x.to(x.dtype), None, None, None
        return grad_x.to(x.dtype), sums[1].to(weight.dtype), sums[0].to(weight.dtype), None


def _combine(mean: Tensor, variance: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (c,), variance (c,) and count (1,) of all workers' rows, from each worker's own.

    Source: Chan, Golub and LeVeque 1983, whose pairwise update does not cancel.
    """
    mine = torch.cat([mean, variance, count])
    parts = [torch.empty_like(mine) for _ in range(world_size())]
    dist.all_gather(parts, mine)
    table = torch.stack(parts)
    counts = table[:, -1:]
    means, variances = table[:, :-1].chunk(2, dim=1)
    total = counts.sum(0)
    grand = (means * counts).sum(0) / total
    spread = ((variances + (means - grand) ** 2) * counts).sum(0) / total
    return grand, spread, total


def _all_but_channels(x: Tensor) -> list[int]:
    return [0, *range(2, x.dim())]


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (x.dim() - 2))


def _as(parameter: Tensor | None, like: Tensor) -> Tensor | None:
    return None if parameter is None else parameter.to(like.dtype)


def globalize_batch_norm(module: nn.Module) -> nn.Module:
    """`module` with every batch norm turned into a GlobalBatchNorm of the same parameters."""
    if isinstance(module, _BatchNorm):
        if module.momentum is None:
            raise ValueError("A cumulative average (momentum=None) of batch norm is not supported.")
        made = GlobalBatchNorm(
            module.num_features,
            module.eps,
            module.momentum,
            module.affine,
            module.track_running_stats,
        )
        made.train(module.training)
        made.weight, made.bias = module.weight, module.bias
        made.running_mean, made.running_var = module.running_mean, module.running_var
        made.num_batches_tracked = module.num_batches_tracked
        return made
    for name, child in module.named_children():
        setattr(module, name, globalize_batch_norm(child))
    return module
