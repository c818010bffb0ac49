"""SwAV: each view predicts the prototypes that another is assigned to (Caron et al. 2020)."""

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from bt_ray.methods.clustering import ClusteringLearner, share_in_use
from bt_ray.methods.embedding_queue import EmbeddingQueue
from bt_ray.methods.learner import Embedded, Outcome
from bt_ray.methods.pretraining import spread
from bt_ray.methods.prototypes import Prototypes
from bt_ray.methods.rows import mean_of_rows
from bt_ray.methods.sinkhorn import sinkhorn


class SwavLearner(ClusteringLearner):
    """The swapped prediction of codes, with or without smaller views and a queue.

    Codes are those of the two views; each is predicted by all other views, smaller ones too
    (Eq. 6). Sinkhorn-Knopp runs on the scores of the global batch, on every worker alike, behind
    those of the queue, once it is full; it fills from `queue_from_epoch` on. The authors' code has
    a queue on each worker, of its own rows; here there is one, of the rows of all, of the same
    total length.

    While the prototypes are frozen, their gradients are zeros, and what weight decay and momentum
    do to them is undone. After a step they have norm 1 again, as before each one in the authors'
    code.
    """

    _pairs: Tensor | None = None
    """Embeddings (2, N, d) of the step's two views, for the queue."""
    _frozen: Sequence[Tensor] = ()
    """The prototypes before a step in which they do not move."""

    def build_parts(self, width: int) -> dict[str, nn.Module]:
        """Prototypes, and a queue if there is one."""
        chosen = self.settings.objective.swav
        parts: dict[str, nn.Module] = {"prototypes": Prototypes(width, chosen.prototypes)}
        if chosen.queue_rows > 0:
            parts["queue"] = EmbeddingQueue(chosen.queue_rows, width)
        return parts

    def objective(self, embedded: Embedded) -> Outcome:
        """The loss of the embeddings."""
        chosen = self.settings.objective.swav
        z = self.embeddings(embedded)
        is_frozen = self.step < round(chosen.frozen_epochs * self.steps_per_epoch)
        if is_frozen:
            self._frozen = [weight.detach().clone() for weight in self.prototypes.weights]
        scores = [self.prototypes(view, frozen=is_frozen)[0] for view in z]
        self._pairs = torch.stack([self.gathered_rows(view) for view in z[:2]])
        codes = [self._codes(view, scores[view]) for view in (0, 1)]
        own = [of_all[self.own_rows] for of_all in codes]
        loss = mean_of_rows(swapped_prediction(scores, own, chosen.temperature), sum(self.rows))
        return Outcome(loss, {"spread": spread(self._pairs[0]), **_describe(codes[0])}, tuple(z))

    def after_step(self, step: int) -> None:
        """Prototypes of norm 1, or those of before if they are frozen; fills the queue."""
        if self._frozen:
            with torch.no_grad():
                for weight, before in zip(self.prototypes.weights, self._frozen, strict=True):
                    weight.copy_(before)
        else:
            self.prototypes.normalize()
        self._frozen = ()
        if self._pairs is not None and self._queue is not None and step > self._queue_begins:
            self._queue.push(self._pairs)
        self._pairs = None

    @property
    def _queue(self) -> EmbeddingQueue | None:
        if self.settings.objective.swav.queue_rows == 0:
            return None
        return cast(EmbeddingQueue, self.module.get_submodule("queue"))

    @property
    def _queue_begins(self) -> int:
        """The first step whose embeddings go into the queue."""
        return self.settings.objective.swav.queue_from_epoch * self.steps_per_epoch

    @torch.no_grad()
    def _codes(self, view: int, scores: Tensor) -> Tensor:
        """Codes (N, K) of all workers' rows of a view, from this worker's scores (n, K)."""
        chosen = self.settings.objective.swav
        of_all = self.gathered_rows(scores)
        num_rows, queue = len(of_all), self._queue
        queued = (self.step - self._queue_begins) * num_rows
        if queue is not None and queued >= chosen.queue_rows:
            of_all = torch.cat([self.prototypes(queue.embeddings[view])[0], of_all])
        return sinkhorn(of_all, chosen.epsilon, chosen.iterations)[-num_rows:]


def swapped_prediction(
    scores: Sequence[Tensor], codes: Sequence[Tensor], temperature: float
) -> Tensor:
    """The loss (n,) of each image: cross-entropies of codes and other views' scores, on average.

    Args:
      scores: (n, K) of each view.
      codes: (n, K), without gradient, of the first of these views.
    Source: Caron et al. 2020, Eq. 1, 2 and 6; the average, where Eq. 6 has a sum: appendix A.1.
    """
    log_p = [log_softmax(of_view / temperature, dim=1) for of_view in scores]
    terms = [
        -(code * predicted).sum(dim=1)
        for assigned, code in enumerate(codes)
        for view, predicted in enumerate(log_p)
        if view != assigned
    ]
    return torch.stack(terms).mean(dim=0)


def _describe(codes: Tensor) -> dict[str, Tensor]:
    """The share of prototypes that some row has as its first, and the codes' entropy, 0 to 1."""
    num_prototypes = codes.shape[1]
    entropy = -torch.xlogy(codes, codes).sum(dim=1).mean() / math.log(num_prototypes)
    return {
        "prototypes_used": share_in_use(codes.argmax(dim=1), num_prototypes),
        "code_entropy": entropy,
    }
