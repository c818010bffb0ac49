"""A batch norm over the rows of all workers, each view with its own statistics.

What a worker computes of its rows is left to the device's kernels: `cuda` takes those of torch's
SyncBatchNorm, `cpu` plain ones, which torch lacks. The exchange between workers is the same: one
all-gather in forward and one all-reduce in backward, for all views together.
"""

from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bt_ray.distributed.collectives import all_reduce_sum, gather_rows, world_size
from bt_ray.distributed.groups import statistics_group
from bt_ray.model.batch_norm import cpu, cuda
from bt_ray.model.batch_norm.conversion import go_on, replace_batch_norms
from bt_ray.model.batch_norm.views import arrange

Views = Sequence[Tensor]
"""A tensor for each view."""


class Kernels(Protocol):
    """What a device computes of one worker's rows, (n, c, …) for each view; a module is one.

    `moments` are two tensors (c,) for each view, which only the kernels themselves look into.
    """

    def describe(self, parts: Views, eps: float) -> Tensor:
        """One vector that says everything of this worker's rows: what is exchanged."""

    def combine(
        self,
        table: Tensor,
        num_views: int,
        running: tuple[Tensor, Tensor] | None,
        momentum: float,
        eps: float,
    ) -> tuple[Views, Tensor]:
        """Moments of the rows of all workers, and the counts that `input_gradient` wants.

        Args:
          table: (W, …), what each worker's `describe` returned.
          running: mean and variance (c,), which are moved, in turn by each view's.
        """

    def normalize(
        self, parts: Views, moments: Views, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> Tensor:
        """All views' normalised rows, one view after the other."""

    def reduce(
        self, gradients: Views, parts: Views, moments: Views, weight: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """This worker's sums that every row's gradient depends on, and two of its gradients.

        Returns: a tensor to be summed over the workers; gradients (c,) of weight and bias.
        """

    def input_gradient(
        self,
        gradients: Views,
        parts: Views,
        moments: Views,
        weight: Tensor | None,
        sums: Tensor,
        counts: Tensor,
        eps: float,
    ) -> Tensor:
        """The gradient of all views' rows, from the sums over all workers."""


def kernels_of(device: torch.device) -> Kernels:
    """The kernels for tensors on `device`."""
    if device.type == "cuda":
        return cuda
    return cpu


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
        return go_on(self, self._normalize(x))

    def _normalize(self, x: Tensor) -> Tensor:
        if not self.training or (world_size() == 1 and self.views == 1):
            return super().forward(x)
        self._check_input_dim(x)
        running = None
        if self.running_mean is not None and self.running_var is not None:
            running = (self.running_mean, self.running_var)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(self.views)
        momentum = cast(float, self.momentum)
        return _GlobalNormalize.apply(  # type: ignore[no-any-return]
            x, self.weight, self.bias, running, momentum, self.eps, self.views
        )


class _GlobalNormalize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running: tuple[Tensor, Tensor] | None,
        momentum: float,
        eps: float,
        views: int,
    ) -> Tensor:
        kernels = kernels_of(x.device)
        x = arrange(x, x)
        parts = x.chunk(views)
        group = statistics_group()
        mine = kernels.describe(parts, eps)
        table = gather_rows(mine[None], [1] * world_size(group), group)
        moments, counts = kernels.combine(table, views, running, momentum, eps)
        ctx.eps, ctx.views = eps, views
        ctx.save_for_backward(x, weight, counts, *moments)
        return kernels.normalize(parts, moments, weight, bias, eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, counts, *moments = ctx.saved_tensors
        kernels = kernels_of(x.device)
        parts, gradients = x.chunk(ctx.views), arrange(gradient, x).chunk(ctx.views)
        shares, grad_weight, grad_bias = kernels.reduce(gradients, parts, moments, weight, ctx.eps)
        sums = all_reduce_sum(shares, statistics_group(), in_place=True)
        grad_x = kernels.input_gradient(gradients, parts, moments, weight, sums, counts, ctx.eps)
        return grad_x, grad_weight, grad_bias, None, None, None, None


def globalize_batch_norm(module: nn.Module, views: int = 1) -> nn.Module:
    """`module` with every batch norm replaced by a GlobalBatchNorm of the same parameters.

    A GroupedBatchNorm stays one: it needs no other worker's rows.

    Args:
      views: how many views a batch consists of, one after the other.
    Raises: ValueError as `replace_batch_norms`.
    """
    return replace_batch_norms(module, GlobalBatchNorm, views=views)
