"""What DeepCluster and SeLa have in common: labels of all images, renewed between epochs."""

from abc import abstractmethod
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bt_ray.data.stream.batches import Batch
from bt_ray.distributed.collectives import sum_for_replicas
from bt_ray.methods.clustering import ClusteringLearner, share_in_use
from bt_ray.methods.embedding_bank import EmbeddingBank
from bt_ray.methods.labels import UNKNOWN, Labels
from bt_ray.methods.learner import Embedded, Outcome
from bt_ray.methods.pretraining import spread
from bt_ray.methods.prototypes import Prototypes


class LabelPredictionLearner(ClusteringLearner):
    """All views predict their image's label, by each head; the labels come from a bank.

    The bank has the embedding of each image's first view, as the image's last step made it, while
    the weights moved on. It saves a pass over all images between two epochs.

    Raises: ValueError if the number of training images is not known.
    """

    _written: tuple[Tensor, Tensor] | None = None
    """The rows of the data set that the step's images are, and their embeddings, of all workers."""

    def build_parts(self, width: int) -> dict[str, nn.Module]:
        """Prototypes, bank and labels."""
        if self.num_images < 1:
            raise ValueError(f"num_images={self.num_images} must be the training set's.")
        num_prototypes, heads, _ = self.clustering
        return {
            "prototypes": Prototypes(width, num_prototypes, heads),
            "bank": EmbeddingBank(self.num_images, width),
            "labels": Labels(self.num_images, heads),
        }

    @property
    @abstractmethod
    def clustering(self) -> tuple[int, int, float]:
        """K, the number of heads, and τ."""

    @abstractmethod
    def relabel(self, epoch: int) -> None:
        """Renews the labels, alike on every worker, when `epoch` epochs are done."""

    @property
    def bank(self) -> EmbeddingBank:
        """The network's."""
        return cast(EmbeddingBank, self.module.get_submodule("bank"))

    @property
    def labels(self) -> Labels:
        """The network's."""
        return cast(Labels, self.module.get_submodule("labels"))

    def embed(self, batch: Batch) -> Embedded:
        """Representations of all views, and the rows of the data set, int64 (n,)."""
        return *super().embed(batch), self.samples(batch)

    def objective(self, embedded: Embedded) -> Outcome:
        """The loss of the embeddings."""
        *representations, samples = embedded
        z = self.embeddings(representations)
        of_all, first = self.gathered_rows(samples), self.gathered_rows(z[0])
        self._written = of_all, first
        labels = self.labels.of(of_all)
        terms = {"spread": spread(first), **self._describe(first, labels)}
        return Outcome(self._loss(z, labels), terms, tuple(z))

    def after_step(self, step: int) -> None:
        """Writes the step's embeddings into the bank; renews the labels after an epoch."""
        if self._written is not None:
            self.bank.write(*self._written)
        self._written = None
        if step % self.steps_per_epoch == 0:
            self.relabel(step // self.steps_per_epoch)

    def _loss(self, z: list[Tensor], labels: Tensor) -> Tensor:
        """Cross-entropies, on average over views, heads and the images that have a label.

        Args:
          z: embeddings (n, d) of this worker's rows, of each view.
          labels: (heads, N) of all workers' rows.
        """
        _, heads, temperature = self.clustering
        num_known = (labels != UNKNOWN).sum(dim=1).clamp(min=1)
        own = labels[:, self.own_rows]
        terms = [
            cross_entropy(scores / temperature, own[head], ignore_index=UNKNOWN, reduction="sum")
            / num_known[head]
            for view in z
            for head, scores in enumerate(self.prototypes(view))
        ]
        return sum_for_replicas(torch.stack(terms).sum()) / (len(z) * heads)

    @torch.no_grad()
    def _describe(self, z: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Shares of rows whose label scores best, and of prototypes that do in some row.

        Both of the first head.
        """
        best = (z @ self.prototypes.weights[0].T).argmax(dim=1)
        return {
            "label_top1": (best == labels[0]).float().mean(),
            "prototypes_used": share_in_use(best, self.clustering[0]),
        }
