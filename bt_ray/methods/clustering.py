"""What the methods that compare embeddings with prototypes have in common."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from bt_ray.data.stream.batches import Batch
from bt_ray.methods.learner import Embedded
from bt_ray.methods.pretraining import PretrainingLearner
from bt_ray.methods.prototypes import Prototypes
from bt_ray.methods.rows import unit
from bt_ray.model.network import Network
from bt_ray.model.twins import build_network


class ClusteringLearner(PretrainingLearner):
    """Embeddings of norm 1 of two views, and perhaps of smaller ones, and prototypes.

    Views of one size pass the encoder as one batch, whose statistics batch norm takes; the
    projector takes all views as one batch, as in the authors' code (multi-crop: Caron et al. 2020,
    section 3.3 and appendix A).
    """

    def build_network(self) -> Network:
        """Encoder, projector, and what `build_parts` returns, with new weights."""
        network = build_network(self.settings, joined=True)
        for name, part in self.build_parts(self.settings.model.projector_widths[-1]).items():
            network.add_module(name, part)
        return network

    def build_parts(self, width: int) -> dict[str, nn.Module]:
        """`prototypes` and what else the method keeps, by name; embeddings have `width` numbers."""
        raise NotImplementedError

    @property
    def prototypes(self) -> Prototypes:
        """The network's."""
        return cast(Prototypes, self.module.get_submodule("prototypes"))

    def embed(self, batch: Batch) -> Embedded:
        """Representations (n, F) of both views, and (n, s, F) of smaller ones, if there are any."""
        of_views = super().embed(batch)
        if batch.small is None:
            return of_views
        with self.autocast():
            of_small = self.module.represent(*self.inputs(batch.small.unbind(1)))
        return *of_views, torch.stack(of_small, dim=1)

    def embeddings(self, representations: Sequence[Tensor]) -> list[Tensor]:
        """Embeddings (n, d) of norm 1 of each view, the two first; float32 or better."""
        view_a, view_b, *small = representations
        views = [view_a, view_b, *(view for views in small for view in views.unbind(1))]
        with self.autocast():
            found = self.module.project(*views)
        return [unit(z) for z in found]


def share_in_use(labels: Tensor, num_labels: int) -> Tensor:
    """How many of `num_labels` labels occur in int64 `labels`, of any shape, as a share."""
    occurs = torch.zeros(num_labels, device=labels.device)
    return occurs.index_fill_(0, labels.flatten(), 1).mean()
