"""DeepCluster-v2: images are told apart by clusters of the epoch before (Caron et al. 2020)."""

import torch
from torch import Tensor, nn

from bt_ray.distributed.gradients import share_state
from bt_ray.methods.kmeans import spherical_kmeans
from bt_ray.methods.label_prediction import LabelPredictionLearner
from bt_ray.optim.schedule import rate_factor


class DeepClusterLearner(LabelPredictionLearner):
    """Before each epoch, k-means clusters all images, by their embeddings in the epoch before.

    The centroids are the epoch's prototypes, which do not move in it, and the labels are the
    assignments. Nothing has to be matched between two epochs' clusters, as in the first
    DeepCluster (Caron et al. 2018), which began a new classifier after each clustering.

    The first epoch only fills the bank: there are no clusters yet, so the loss is 0 and the weights
    stay. Schedule and momentum begin with the second epoch. This costs an epoch of the run's; the
    authors' code makes a pass without gradients instead, which costs about a third of one. A run of
    one epoch trains nothing.

    Another deviation: all heads cluster the first view's embeddings, where the authors' take turns
    with the second view's, whose bank would take as much memory again.

    For M = 1.28 million images, d = 128, K = 3,000 and three heads, a worker and a checkpoint have
    657 MB of bank, 31 MB of labels and 5 MB of prototypes. Between two epochs another 657 MB are
    needed, a copy of the bank's rows that were seen. Then an iteration of k-means takes 2 · M · K ·
    d ≈ 1e12 operations, and 3 · (10 + 1) of them 3e13: about a second at 30 TFLOP/s, several
    minutes on a CPU at 0.1. Every worker does all of it, so it is not faster with more.

    Source: Caron et al. 2020, appendix D, Eq. 8, 9 and 11, and their code.
    """

    def build_parts(self, width: int) -> dict[str, nn.Module]:
        """Prototypes that are not trained, bank and labels."""
        parts = super().build_parts(width)
        parts["prototypes"].requires_grad_(False)
        return parts

    @property
    def clustering(self) -> tuple[int, int, float]:
        """K, the number of heads, and τ."""
        chosen = self.settings.objective.deepcluster
        return chosen.prototypes, chosen.heads, chosen.temperature

    def rate_factor(self, step: int) -> float:
        """0 in the first epoch; then the warm-up and the cosine, over the epochs that are left."""
        if step < self.steps_per_epoch:
            return 0.0
        schedule = self.settings.schedule
        return rate_factor(
            step - self.steps_per_epoch,
            total_steps=self.total_steps - self.steps_per_epoch,
            warmup_steps=round(schedule.warmup_epochs * self.steps_per_epoch),
            final_factor=schedule.final_factor,
        )

    @torch.no_grad()
    def relabel(self, epoch: int) -> None:
        """Clusters the bank; all workers take the first one's clusters, lest rounding part them."""
        rows = self.bank.rows()
        points = self.bank.embeddings[rows]
        for head, weight in enumerate(self.prototypes.weights):
            centroids, nearest = spherical_kmeans(
                points,
                len(weight),
                self.settings.objective.deepcluster.iterations,
                self.generator(epoch * self.steps_per_epoch, head),
            )
            weight.copy_(centroids)
            self.labels.values[head, rows] = nearest
        share_state(self.prototypes)
        share_state(self.labels)
        if epoch == 1:
            self._forget_momenta()

    def _forget_momenta(self) -> None:
        """Weight decay has moved the momenta while the rate was 0."""
        for state in self.optimizer.state.values():
            for value in state.values():
                if isinstance(value, Tensor):
                    value.zero_()
