"""MoCo v2: each query is told from earlier steps' keys (He et al. 2020; Chen et al. 2020b)."""

from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from bt_ray.data.stream.batches import Batch
from bt_ray.distributed.collectives import gather_rows, rank, sum_for_replicas, world_size
from bt_ray.methods.learner import Embedded, Outcome
from bt_ray.methods.pretraining import PretrainingLearner, spread
from bt_ray.methods.queue import Queue
from bt_ray.methods.rows import unit
from bt_ray.model.batch_norm import group_batch_norm, share_statistics
from bt_ray.model.network import Follower, Network
from bt_ray.model.twins import build_network


class MocoLearner(PretrainingLearner):
    """The first view is the query; the second one's key is made by a momentum encoder.

    Batch norm's statistics are those of groups of `norm_rows` rows of the global batch, whatever
    the number of workers: the queries' in their order, the keys' in a random one, so that the
    groups of an image's query and of its key are not the same and tell nothing ("shuffling BN", He
    et al. 2020, section 3.3, where a group is a GPU's rows). With `training.micro_batch` the rows
    are shuffled within each part, and the keys are computed twice, as the queries are.

    What shuffling costs: each worker gets the second views of all workers as they are before
    normalisation, N · c · px · px bytes of 8-bit images (39 MB of 256 at 224 pixels; the authors'
    code sends four times as much), and the keys, N · D numbers. Each key is computed once, by one
    worker.

    The queue takes Q · D · 4 bytes on each worker and in a checkpoint: 34 MB of 65,536 · 128.
    """

    def build_network(self) -> Network:
        """Encoder and projector, the same as `momentum`, and `queue`."""
        chosen = self.settings.objective.moco_v2
        network = build_network(self.settings, views=1)
        group_batch_norm(network, chosen.norm_rows)
        network.add_module("momentum", Follower(network, views=1))
        width = self.settings.model.projector_widths[-1]
        network.add_module("queue", Queue(chosen.queue_rows, width))
        return network

    @property
    def _follower(self) -> Follower:
        return cast(Follower, self.module.get_submodule("momentum"))

    @property
    def _queue(self) -> Queue:
        return cast(Queue, self.module.get_submodule("queue"))

    def begin(self) -> None:
        """The momentum encoder begins as the encoder."""
        super().begin()
        self._follower.copy(self.module)

    def embed(self, batch: Batch) -> Embedded:
        """The queries' representations (n, F), and the keys (n, D), of length 1."""
        query_view, key_view = batch.views
        keys = self._keys_of(key_view, batch.step)
        with self.autocast():
            (representations,) = self.module.represent(*self.inputs([query_view]))
        return representations, keys

    @torch.no_grad()
    def _keys_of(self, views: Tensor, step: int) -> Tensor:
        """The keys (n, D) of this worker's views (n, c, px, px), computed in shuffled groups."""
        of_all = _gather_levels(views)
        order = torch.randperm(len(of_all), generator=self.generator(step))
        mine = order.chunk(world_size())[rank()].to(views.device, non_blocking=True)
        with self.autocast():
            (representations,) = self._follower.represent(*self.inputs([of_all[mine]]))
            (keys,) = self._follower.project(representations)
        shuffled = gather_rows(unit(keys), [len(views)] * world_size())
        places = order.argsort().chunk(world_size())[rank()]
        return shuffled[places.to(views.device, non_blocking=True)]

    def objective(self, embedded: Embedded) -> Outcome:
        """The loss of this worker's queries, summed over the workers: rows do not meet in it."""
        representations, keys = embedded[0], embedded[1].detach()
        with self.autocast():
            (queries,) = self.module.project(representations)
        share_statistics(self.module)
        queries = unit(queries)
        temperature = self.settings.objective.moco_v2.temperature
        losses, hits = info_nce(queries, keys, self._queue.keys, temperature)
        loss, top1 = sum_for_replicas(
            torch.stack([losses.sum(), hits.sum()]) / self.settings.data.global_batch
        )
        self._new_keys = self.gathered_rows(keys)
        terms = {"contrast_top1": top1.detach(), "spread": spread(self.gathered_rows(queries))}
        return Outcome(loss, terms, (queries,))

    def after_step(self, step: int) -> None:
        """The momentum encoder follows, and the queue takes the step's keys (Algorithm 1)."""
        self._follower.follow(self.module, self.settings.objective.moco_v2.momentum)
        self._queue.put(self._new_keys, step - 1)


def info_nce(
    queries: Tensor, keys: Tensor, negatives: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Each query's loss (n,), and whether its own key is nearest, 0 or 1 (n,).

    Args:
      queries, keys: (n, D), of length 1; row i of both of the same image.
      negatives: (Q, D), of length 1.
    Source: He et al. 2020, Eq. 1 and Algorithm 1.
    """
    own = (queries * keys).sum(dim=1, keepdim=True)
    logits = torch.cat([own, queries @ negatives.T], dim=1) / temperature
    first = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    losses = cross_entropy(logits, first, reduction="none")
    return losses, (logits.detach().argmax(dim=1) == first).to(losses.dtype)


def _gather_levels(views: Tensor) -> Tensor:
    """The views of all workers, (n, c, px, px) each; levels of 16 bits travel as bytes."""
    levels = views.contiguous()
    counts = [len(levels)] * world_size()
    return gather_rows(levels.view(torch.uint8), counts).view(views.dtype)
