"""PIRL: an image and its patches are embedded alike (Misra and van der Maaten 2020)."""

from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from bt_ray.data.stream.batches import Batch
from bt_ray.distributed.collectives import sum_for_replicas
from bt_ray.methods.jigsaw_head import JigsawHead
from bt_ray.methods.learner import Embedded, Outcome
from bt_ray.methods.memory_bank import MemoryBank
from bt_ray.methods.pretraining import PretrainingLearner, spread
from bt_ray.methods.rows import unit
from bt_ray.model.network import Network
from bt_ray.model.twins import build_network


class PirlLearner(PretrainingLearner):
    """An image's first view and its nine patches, each told from other images' entries in a bank.

    An image's patches (n, 9, c, px, px) come in a random order. They are encoded one by one, and
    their representations joined. The second view is not used. Batch norm has the statistics of all
    workers' images, and apart from these those of all their patches; the authors' has those of each
    GPU.
    """

    _seen: tuple[Tensor, Tensor]
    """The rows of the data set that the step's images are, and their embeddings, of all workers."""

    def build_network(self) -> Network:
        """Encoder and projector; `jigsaw_head` of the patches; `bank`."""
        network = build_network(self.settings, views=1)
        width = self.settings.model.projector_widths[-1]
        features = cast(int, network.encoder.num_features)
        head = JigsawHead(features, self.settings.views.small_count, width)
        network.add_module("jigsaw_head", head)
        network.add_module("bank", MemoryBank(self.num_images, width))
        return network

    @property
    def _bank(self) -> MemoryBank:
        return cast(MemoryBank, self.module.get_submodule("bank"))

    def embed(self, batch: Batch) -> Embedded:
        """Representations (n, F) of the images and (n, 9, F) of their patches, and rows (n,).

        Raises: ValueError if the batch has no patches.
        """
        if batch.small is None:
            raise ValueError("PIRL needs the patches of each image, and the batch has none.")
        self.step = batch.step
        image, patches = self.inputs([batch.views[0], batch.small.flatten(0, 1)])
        with self.autocast():
            (of_patches,) = self.module.represent(patches)
            (of_images,) = self.module.represent(image)
        num_patches = self.settings.views.small_count
        return of_images, of_patches.unflatten(0, (-1, num_patches)), self.samples(batch)

    def objective(self, embedded: Embedded) -> Outcome:
        """The loss of this worker's rows, summed over the workers: rows do not meet in it.

        Eq. 5: λ · NCE(m, patches) + (1 − λ) · NCE(m, image), m an image's entry in the bank.
        """
        of_images, of_patches, samples = embedded
        with self.autocast():
            (images,) = self.module.project(of_images)
            head = self.module.get_submodule("jigsaw_head")
            (patches,) = self.module.through(head, of_patches)
        images, patches = unit(images), unit(patches)
        chosen = self.settings.objective.pirl
        against = self._against(samples)
        of_patch, hits = nce(patches, *against, chosen.temperature)
        of_image, _ = nce(images, *against, chosen.temperature)
        weight = chosen.image_weight
        sums = torch.stack([((1 - weight) * of_patch + weight * of_image).sum(), hits.sum()])
        loss, top1 = sum_for_replicas(sums / self.settings.data.global_batch)
        self._seen = self.gathered_rows(samples), self.gathered_rows(images)
        terms = {"contrast_top1": top1.detach(), "spread": spread(self._seen[1])}
        return Outcome(loss, terms, (images, patches))

    def after_step(self, step: int) -> None:
        """The entries of the step's images follow their embeddings."""
        self._bank.follow(*self._seen, self.settings.objective.pirl.memory_momentum)

    def _against(self, samples: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Own entries (n, D), negatives (K, D), and which of these are the image's own (n, K).

        The negatives are drawn with repetition from the whole bank, once a step, for all images.
        """
        entries, num = self._bank.entries, self.settings.objective.pirl.negatives
        drawn = torch.randint(len(entries), (num,), generator=self.generator(self.step))
        drawn = drawn.to(samples.device, non_blocking=True)
        return entries[samples], entries[drawn], samples[:, None] == drawn


def nce(
    embeddings: Tensor, positives: Tensor, negatives: Tensor, is_own: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Each row's loss (n,), and whether its positive is nearest to it, 0 or 1 (n,).

    −log h(positive) − Σ log(1 − h(negative)), where h is exp(cosine / τ) over the sum of the
    positive's and all negatives'. As printed, Eq. 3 has in the denominator that which is compared,
    and the negatives: for a negative that would count itself twice and leave the positive out. We
    take one denominator for all, so that the h of a row add up to 1.

    Args:
      embeddings, positives: (n, D), of length 1.
      negatives: (K, D), of length 1.
      is_own: bool (n, K), negatives that do not count for a row.
    Source: Misra and van der Maaten 2020, Eq. 3 and 4.
    """
    own = (embeddings * positives).sum(dim=1, keepdim=True)
    others = (embeddings @ negatives.T).masked_fill(is_own, -torch.inf)
    log_h = log_softmax(torch.cat([own, others], dim=1) / temperature, dim=1)
    almost_1 = -torch.finfo(
        log_h.dtype
    ).eps  # beyond, 1 − h is 0 in this type, and its log infinite
    log_rest = (-torch.expm1(log_h[:, 1:].clamp(max=almost_1))).log()
    hits = (log_h.detach().argmax(dim=1) == 0).to(log_h.dtype)
    return -log_h[:, 0] - log_rest.sum(dim=1), hits
