"""SimCLR: each view is told from all other images' views (Chen et al. 2020a)."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from bt_ray.methods.learner import Embedded, Outcome
from bt_ray.methods.pretraining import PretrainingLearner, spread
from bt_ray.model.network import Network
from bt_ray.model.twins import build_network


class SimclrLearner(PretrainingLearner):
    """The normalised temperature-scaled cross-entropy over the 2N views of the global batch.

    Both views of all workers share batch norm's statistics, as in the authors' code, which passes
    them as one batch (section 2.2, "Global BN").
    """

    def build_network(self) -> Network:
        """Encoder and projector with new weights."""
        return build_network(self.settings, joined=True)

    def objective(self, embedded: Embedded) -> Outcome:
        """The loss of the embeddings."""
        with self.autocast():
            z_a, z_b = self.module.project(*embedded)
        of_a, of_b = self.gathered(z_a), self.gathered(z_b)
        loss, hits = nt_xent(of_a, of_b, self.settings.objective.simclr.temperature)
        return Outcome(loss, {"contrast_top1": hits, "spread": spread(of_a)}, (z_a, z_b))


def nt_xent(z_a: Tensor, z_b: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The loss of two views' embeddings (N, D), and the share of views that find their other.

    Source: Chen et al. 2020a, Eq. 1 and Algorithm 1.
    """
    num_images = len(z_a)
    z = normalize(torch.cat([z_a, z_b]), dim=1)
    logits = z @ z.T / temperature
    logits = logits.masked_fill(
        torch.eye(2 * num_images, dtype=torch.bool, device=z.device), -torch.inf
    )
    other = torch.arange(2 * num_images, device=z.device).roll(num_images)
    hits = (logits.detach().argmax(dim=1) == other).float().mean()
    return cross_entropy(logits, other), hits
