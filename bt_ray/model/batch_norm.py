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
    """Batch norm by torch's own kernels, which pass over the rows a few times only."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, variance = _moments(x, eps)
        count = torch.full_like(mean[:1], x.numel() / x.shape[1])
        mean, variance, total = _combine(mean, variance, count)
        scale = torch.ones_like(mean) if weight is None else weight.to(mean.dtype)
        output = functional.batch_norm(x, mean, variance, scale, _as(bias, mean), eps=eps)
        ctx.eps, ctx.has_weight = eps, weight is not None
        ctx.save_for_backward(x, scale, mean, variance, total)
        ctx.mark_non_differentiable(mean, variance, total)
        return output, mean, variance, total

    @staticmethod
    def backward(
        ctx: Any, gradient: Tensor, *_: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        x, scale, mean, variance, count = ctx.saved_tensors
        # As if mean and variance were constants: the gradient of x, and the sums over this
        # worker's rows, which are its shares of the gradients of weight and bias …
        grad_x, grad_scale, grad_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, scale, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        # … and their total is what every row's gradient depends on, since they are not.
        product, constant = all_reduce_sum(torch.stack([grad_scale, grad_bias])) / count
        factor = scale * torch.rsqrt(variance + ctx.eps)
        grad_x -= functional.batch_norm(
            x, mean, variance, factor * product, factor * constant, eps=ctx.eps
        )
        if not ctx.has_weight:
            return grad_x, None, None, None
        return grad_x, grad_scale, grad_bias, None


def _moments(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (c,) of this worker's rows, float32 or better."""
    wide = torch.promote_types(x.dtype, torch.float32)
    if x.device.type != "cpu":
        variance, mean = torch.var_mean(x.to(wide), dim=[0, *range(2, x.dim())], correction=0)
        return mean, variance
    # On a CPU the whole batch norm is ten times as fast as torch's own var_mean.
    ones = torch.ones(x.shape[1], dtype=wide)
    _, mean, inverse_std = torch.native_batch_norm(x, ones, None, None, None, True, 0.0, eps)
    return mean, (inverse_std**-2 - eps).clamp_(min=0)


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
