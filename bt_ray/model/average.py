"""A moving average of an encoder's weights."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from bt_ray.model.weights import file_of

AVERAGE = file_of("average")
"""Name of the averaged encoder's file in a checkpoint; its tensors are named as the encoder's."""
Tensors = tuple[Tensor, ...] | list[Tensor]


class Average:
    """An exponential moving average of an encoder's weights, which begins as they are.

    After each step, average ← decay · average + (1 − decay) · weights. Batch norms' running
    statistics are averaged alike, since those of the weights themselves do not fit averaged
    weights; counters are copied. Nothing of it has a gradient, and it is no part of the module
    that is trained.

    Args:
      encoder: is copied.
      decay: between 0 and 1.
    """

    def __init__(self, encoder: nn.Module, decay: float) -> None:
        self._step = 1 - decay
        self._moved: Tensor | None = None
        self._averaged = AveragedModel(encoder, multi_avg_fn=self._follow, use_buffers=True)
        self._averaged.requires_grad_(False)
        self._averaged.eval()
        self._averaged.n_averaged += 1  # torch's would take the weights after the first step whole

    @property
    def encoder(self) -> nn.Module:
        """The averaged encoder, in eval mode."""
        return self._averaged.module

    def update(self, encoder: nn.Module, moved: Tensor | None = None) -> None:
        """Follows the encoder's weights, which have moved.

        Args:
          moved: bool scalar on their device: whether they have; if not, nothing changes. It is not
            waited for.
        """
        self._moved = moved
        self._averaged.update_parameters(encoder)

    @torch.no_grad()
    def _follow(self, average: Tensors, current: Tensors, _: Tensor | int) -> None:
        """Moves tensors of one type and device."""
        if not average[0].is_floating_point():
            torch._foreach_copy_(average, current)
        elif self._moved is None:
            torch._foreach_lerp_(average, current, self._step)
        else:
            ways = torch._foreach_sub(current, average)
            torch._foreach_mul_(ways, self._moved * self._step)
            torch._foreach_add_(average, ways)
