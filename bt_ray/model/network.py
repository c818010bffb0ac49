"""An encoder and a projector, which the views of a batch pass."""

from collections.abc import Mapping
from copy import deepcopy
from types import MappingProxyType

import torch
from torch import Tensor, nn

from bt_ray.model.batch_norm import globalize_batch_norm

_NONE: Mapping[str, nn.Module] = MappingProxyType({})


class Network(nn.Module):
    """Encoder, projector and what else a method keeps, each in a checkpoint's file of its own.

    Args:
      parts: further modules by name, such as `predictor`.
      views: how many views of a batch pass together through the batch norms of several workers,
        each with its own statistics. Always so many must then be given to `through`.
      joined: whether views that pass together share their statistics, as one batch of more rows.
    """

    def __init__(
        self,
        encoder: nn.Module,
        projector: nn.Module,
        parts: Mapping[str, nn.Module] = _NONE,
        *,
        views: int = 2,
        joined: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = projector
        for name, part in parts.items():
            self.add_module(name, part)
        self._views, self._joined = views, joined
        self._at_once = False

    def globalize_batch_norm(self) -> None:
        """Makes every batch norm use the statistics of all workers' rows."""
        self._at_once = not self._joined
        views = 1 if self._joined else self._views
        for name, part in list(self.named_children()):
            if isinstance(part, Network):
                part.globalize_batch_norm()
            else:
                setattr(self, name, globalize_batch_norm(part, views))

    def represent(self, *views: Tensor) -> tuple[Tensor, ...]:
        """Representations (n, F) of each view (n, c, px, px), all of one size."""
        return self.through(self.encoder, *views)

    def project(self, *representations: Tensor) -> tuple[Tensor, ...]:
        """Embeddings (n, D) of each view, from their representations (n, F)."""
        return self.through(self.projector, *representations)

    def through(self, part: nn.Module, *views: Tensor) -> tuple[Tensor, ...]:
        """What a part makes of each of the views, which have equally many rows.

        Raises: ValueError if they are not as many as the batch norms of several workers expect.
        """
        if self._at_once and len(views) != self._views:
            raise ValueError(f"{self._views} views pass together, and there are {len(views)}.")
        if len(views) > 1 and (self._joined or self._at_once):
            together: Tensor = part(torch.cat(views))
            return together.chunk(len(views))
        return tuple(part(view) for view in views)


class Follower(Network):
    """A network whose weights follow another's, an exponential moving average of them.

    No gradient reaches it. Its batch norms compute statistics of their own batches, as MoCo's and
    BYOL's do.

    Args:
      leader: its encoder and projector are copied.
    """

    def __init__(self, leader: Network, *, views: int = 2) -> None:
        super().__init__(deepcopy(leader.encoder), deepcopy(leader.projector), views=views)
        self.requires_grad_(False)

    @torch.no_grad()
    def follow(self, leader: Network, momentum: float) -> None:
        """Each weight ← momentum · itself + (1 − momentum) · the leader's."""
        torch._foreach_lerp_(_weights(self), _weights(leader), 1 - momentum)

    @torch.no_grad()
    def copy(self, leader: Network) -> None:
        """Takes the leader's weights, and its batch norms' running statistics."""
        for mine, theirs in zip(_state(self), _state(leader), strict=True):
            mine.copy_(theirs)


def _weights(network: Network) -> list[Tensor]:
    return [*network.encoder.parameters(), *network.projector.parameters()]


def _state(network: Network) -> list[Tensor]:
    parts = (network.encoder, network.projector)
    return [*_weights(network), *(buffer for part in parts for buffer in part.buffers())]
