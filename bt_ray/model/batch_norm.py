"""Batch normalisation with the statistics of the global batch, on any device and backend.

torch's SyncBatchNorm refuses CPU tensors. This one needs only an all-gather and an all-reduce, so
that the same code runs with gloo in the tests and with NCCL on GPUs.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bt_ray.distributed.collectives import all_reduce_sum, gather_rows, world_size


class GlobalBatchNorm(_BatchNorm):
    """Batch normalisation of (n, c, …) inputs over the rows of all workers.

    Running statistics are those of the global batch (unbiased variance, as in torch) and so
    equal on all workers. In eval mode, or with one worker and one view, it is torch's own.
    """

    views = 1
    """The rows are this many views of equal size, one after the other. Each view is normalised with
    its own statistics, and updates the running ones, as if the views were passed one by one."""

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2 or (self.training and len(x) % self.views):
            raise ValueError(
                f"Expected an input of (n, c, …), n a multiple of {self.views}, got "
                f"{tuple(x.shape)}."
            )

    def forward(self, x: Tensor) -> Tensor:
        """The normalised input, same shape and dtype.

        Raises: ValueError if the rows cannot be divided into `views` equal parts.
        """
        if not self.training or (world_size() == 1 and self.views == 1):
            return super().forward(x)
        self._check_input_dim(x)
        output, means, variances, count = _GlobalNormalize.apply(
            x, self.weight, self.bias, self.eps, self.views
        )
        if self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                momentum = cast(float, self.momentum)
                unbiased = variances * count / (count - 1)
                for mean, variance in zip(means, unbiased, strict=True):
                    self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
                    self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)
                if self.num_batches_tracked is not None:
                    self.num_batches_tracked.add_(self.views)
        return output  # type: ignore[no-any-return]


class _GlobalNormalize(torch.autograd.Function):
    """Batch norm by torch's own kernels, which pass over the rows only a few times.

    The statistics of all views are exchanged together: once in forward and once in backward.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, views: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        parts = x.chunk(views)
        means, variances, count = _combine(*_moments(parts), parts[0].numel() / x.shape[1])
        scale = torch.ones_like(means[0]) if weight is None else weight.to(means.dtype)
        shift = None if bias is None else bias.to(means.dtype)
        output = torch.empty_like(x)
        for part, mean, variance, out in zip(
            parts, means, variances, output.chunk(views), strict=True
        ):
            _normalize(part, mean, variance, scale, shift, eps=eps, out=out)
        ctx.eps, ctx.has_weight = eps, weight is not None
        ctx.save_for_backward(x, scale, means, variances, count)
        ctx.mark_non_differentiable(means, variances, count)
        return output, means, variances, count

    @staticmethod
    def backward(
        ctx: Any, gradient: Tensor, *_: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None, None, None]:
        x, scale, means, variances, count = ctx.saved_tensors
        parts, grads = x.chunk(len(means)), gradient.chunk(len(means))
        # This worker's shares of the gradients of weight and bias …
        shares = torch.stack(
            [
                torch.stack(_sum_products(grad, part, mean, variance, eps=ctx.eps))
                for grad, part, mean, variance in zip(grads, parts, means, variances, strict=True)
            ],
            dim=1,
        )
        # … whose totals every row's own depends on, as mean and variance do on every row.
        products, constants = all_reduce_sum(shares) / count
        factors = scale * torch.rsqrt(variances + ctx.eps)
        scales, shifts = -factors * products, -factors * constants
        zero, one = torch.zeros_like(means[0]), torch.ones_like(means[0])
        grad_x, through_moments = torch.empty_like(x), torch.empty_like(parts[0])
        for view, out in enumerate(grad_x.chunk(len(means))):
            _normalize(grads[view], zero, one, factors[view], None, eps=0.0, out=out)
            _normalize(
                parts[view], means[view], variances[view], scales[view], shifts[view],
                eps=ctx.eps, out=through_moments,
            )  # fmt: skip
            out.add_(through_moments)
        grad_scale, grad_bias = shares.sum(1) if ctx.has_weight else (None, None)
        return grad_x, grad_scale, grad_bias, None, None


def _normalize(
    x: Tensor, mean: Tensor, variance: Tensor, scale: Tensor, shift: Tensor | None, *,
    eps: float, out: Tensor,
) -> None:  # fmt: skip
    """Writes (x - mean) / √(variance + eps) · scale + shift, by channel."""
    unused = mean.new_empty(0)
    torch.ops.aten.native_batch_norm.out(
        x, scale, shift, mean, variance, False, 0.0, eps,
        out=out, save_mean=unused, save_invstd=unused,
    )  # fmt: skip


def _sum_products(
    gradient: Tensor, x: Tensor, mean: Tensor, variance: Tensor, *, eps: float
) -> tuple[Tensor, Tensor]:
    """Sums over the rows, by channel: of gradient · normalised x, and of the gradient."""
    _, products, constants = torch.ops.aten.native_batch_norm_backward(
        gradient, x, None, mean, variance, None, None, False, eps, [False, True, True]
    )
    return products, constants


def _moments(parts: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of this worker's rows, (views, c) each, float32 or better."""
    wide = torch.promote_types(parts[0].dtype, torch.float32)
    moments = []
    for part in parts:
        if part.device.type == "cpu":  # torch's own var_mean takes twenty times as long
            like = torch.zeros(part.shape[1], dtype=wide)  # says in which precision to count
            mean, variance = torch.batch_norm_update_stats(part, like, like.clone(), 0.0)
        else:
            rows = [0, *range(2, part.dim())]
            variance, mean = torch.var_mean(part.to(wide), dim=rows, correction=0)
        moments.append((mean, variance))
    means, variances = zip(*moments, strict=True)
    return torch.stack(means), torch.stack(variances)


def _combine(means: Tensor, variances: Tensor, rows: float) -> tuple[Tensor, Tensor, Tensor]:
    """Means, variances (views, c) and count (1,) of all workers' rows, from each worker's own.

    Source: Chan, Golub and LeVeque 1983, whose pairwise update does not cancel.
    """
    mine = torch.cat([means.flatten(), variances.flatten(), means.new_tensor([rows])])
    table = gather_rows(mine[None], [1] * world_size())
    counts = table[:, -1:]
    of_means, of_variances = table[:, :-1].chunk(2, dim=1)
    total = counts.sum(0)
    grand = (of_means * counts).sum(0) / total
    spread = ((of_variances + (of_means - grand) ** 2) * counts).sum(0) / total
    return grand.view_as(means), spread.view_as(variances), total


def globalize_batch_norm(module: nn.Module, views: int = 1) -> nn.Module:
    """`module` with every batch norm replaced by a GlobalBatchNorm of the same parameters.

    Args:
      views: how many views a batch consists of, one after the other.
    Raises: ValueError for a batch norm with a cumulative average (momentum=None).
    """
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
        made.views = views
        made.weight, made.bias = module.weight, module.bias
        made.running_mean, made.running_var = module.running_mean, module.running_var
        made.num_batches_tracked = module.num_batches_tracked
        return made
    for name, child in module.named_children():
        setattr(module, name, globalize_batch_norm(child, views))
    return module
