"""SeLa-v2: images are told apart by labels that are shared out evenly (Caron et al. 2020)."""

from typing import cast

import torch
from torch import nn

from bt_ray.distributed.gradients import share_state
from bt_ray.methods.label_prediction import LabelPredictionLearner
from bt_ray.methods.labels import Labels
from bt_ray.methods.sinkhorn import balanced_labels


class SelaLearner(LabelPredictionLearner):
    """After each epoch all images get labels anew, by Sinkhorn-Knopp over the whole data set.

    A label is the largest entry of the image's row of Q, the transport between images and labels
    whose cost is −log p, with p the head's softmax (Eq. 5); p's divisor is the same for all labels
    of an image, so scores / τ take its place. Each label gets as many images as any other, about.
    In the first epoch labels are drawn at random, as in the first SeLa (section 3.4).

    Labels are renewed by the embeddings that the epoch made, prototypes are trained and have norm
    1, as have embeddings, and there is τ: all as in SeLa-v2. The first SeLa renews them 80 times in
    a training, at times that it spreads evenly over it, each time with a pass over all images.

    For M = 1.28 million images, d = 128, K = 3,000 and three heads, a worker and a checkpoint have
    657 MB of bank and 31 MB of labels; the prototypes and their momenta take 9 MB. Between two
    epochs another 657 MB are needed, a copy of the bank's rows that were seen. An iteration takes
    2 · M · K · d ≈ 1e12 operations and a softmax of M · K = 3.8e9 scores, which pass the memory
    four times, 61 GB; 3 · 100 of them are 3e14 operations and 18 TB: on a GPU with 30 TFLOP/s and
    3 TB/s at most 16 seconds, on a CPU more than half an hour. Every worker does all of it, so it
    is not faster with more.

    Source: Caron et al. 2020, appendix D, Eq. 8, 10 and 12; how the labels are found: Asano et al.
      2020, Eq. 5 and 6 and Algorithm 1; several heads: their section 3.3.
    """

    def build_parts(self, width: int) -> dict[str, nn.Module]:
        """Prototypes, bank, and labels that are drawn."""
        parts = super().build_parts(width)
        labels, (num_prototypes, heads, _) = cast(Labels, parts["labels"]), self.clustering
        for head in range(heads):
            labels.draw(head, num_prototypes, self.generator(0, head))
        return parts

    @property
    def clustering(self) -> tuple[int, int, float]:
        """K, the number of heads, and τ."""
        chosen = self.settings.objective.sela
        return chosen.prototypes, chosen.heads, chosen.temperature

    def after_step(self, step: int) -> None:
        """Prototypes of norm 1, the bank, and after an epoch the labels."""
        self.prototypes.normalize()
        super().after_step(step)

    @torch.no_grad()
    def relabel(self, epoch: int) -> None:
        """Labels of all images that the bank has; all workers take the first one's."""
        chosen = self.settings.objective.sela
        rows = self.bank.rows()
        points = self.bank.embeddings[rows]
        for head, weight in enumerate(self.prototypes.weights):
            self.labels.values[head, rows] = balanced_labels(
                points, weight, chosen.sharpness / chosen.temperature, chosen.iterations
            )
        share_state(self.labels)
