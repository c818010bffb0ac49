"""A batch norm over groups of a fixed number of rows, as if each group were a GPU's batch."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm
from torch.nn.modules.batchnorm import _BatchNorm

from bt_ray.distributed.collectives import all_reduce_sum, world_size
from bt_ray.model.batch_norm.conversion import go_on, replace_batch_norms


class GroupedBatchNorm(_BatchNorm):
    """Batch normalisation of (n, c, …) inputs, each `rows` consecutive rows by themselves.

    Nothing is exchanged between workers: if each has whole groups, the result is that of one
    worker. The running statistics move once a batch, by the mean of its groups' means and unbiased
    variances. On each worker those are its own groups'. What moves by shares of means may be
    averaged later: the mean of the workers' running statistics, if they have equally many groups,
    is what one worker would have (`share_statistics`). In eval mode it is torch's own.

    Each group is normalised by torch's kernel, one after the other: as many launches as there are
    groups, each as large as on one of the GPUs that it stands for.
    """

    rows = 2
    """Rows of a group."""
    keeps_to_groups = True

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2 or (self.training and (len(x) == 0 or len(x) % self.rows)):
            raise ValueError(
                f"Expected an input of (n, c, …), n a multiple of {self.rows}, got "
                f"{tuple(x.shape)}."
            )

    def forward(self, x: Tensor) -> Tensor:
        """The normalised input, same shape and dtype.

        Raises: ValueError if the rows are no whole number of groups.
        """
        if not self.training:
            return go_on(self, super().forward(x))
        self._check_input_dim(x)
        groups = x.split(self.rows)
        wide = torch.promote_types(x.dtype, torch.float32)
        means = x.new_zeros((len(groups), x.shape[1]), dtype=wide)
        variances = torch.ones_like(means)
        y = torch.cat(
            [
                batch_norm(
                    group, mean, variance, self.weight, self.bias,
                    training=True, momentum=1.0, eps=self.eps,
                )
                for group, mean, variance in zip(groups, means, variances, strict=True)
            ]
        )  # fmt: skip
        self._follow(means.mean(0), variances.mean(0))
        return go_on(self, y)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Moves the running statistics by the momentum's share of the way to these."""
        if self.running_mean is None or self.running_var is None:
            return
        momentum = cast(float, self.momentum)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)


def group_batch_norm(module: nn.Module, rows: int) -> nn.Module:
    """`module` with every batch norm replaced by a GroupedBatchNorm of the same parameters.

    Args:
      rows: of a group.
    Raises: ValueError as `replace_batch_norms`.
    """
    return replace_batch_norms(module, GroupedBatchNorm, rows=rows)


@torch.no_grad()
def share_statistics(module: nn.Module) -> None:
    """Gives every worker the mean of all workers' running statistics of grouped batch norms.

    One exchange for the whole module. Workers must have had equally many groups.
    """
    if world_size() == 1:
        return
    own = [
        statistic
        for norm in module.modules()
        if isinstance(norm, GroupedBatchNorm)
        for statistic in (norm.running_mean, norm.running_var)
        if statistic is not None
    ]
    if not own:
        return
    total = all_reduce_sum(torch.cat(own), in_place=True) / world_size()
    for statistic, shared in zip(own, total.split([len(s) for s in own]), strict=True):
        statistic.copy_(shared)
