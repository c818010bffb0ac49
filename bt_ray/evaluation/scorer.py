"""A classifier's scores on test images, which all workers share."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from bt_ray.config import Settings
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.distributed.collectives import sum_numbers
from bt_ray.evaluation.accuracy import count_hits, guesses_counted
from bt_ray.evaluation.images import LabelledImages, load_images
from bt_ray.methods.learner import Probing
from bt_ray.model.classifier import Classifier
from bt_ray.model.inputs import to_input
from bt_ray.precision import autocast

_BLOCK = 256


@dataclass(frozen=True)
class Scorer:
    """Scores a classifier on `data.test`, each worker on every `world_size`-th row group.

    The images are read anew each time, so that any number of them can be scored.
    """

    settings: Settings
    device: torch.device
    rank: int = 0
    world_size: int = 1

    @torch.no_grad()
    def __call__(self, classifier: Classifier) -> Probing:
        """`test/top1` and, from six classes on, `test/top5`; the classifier is as it was."""
        was_training = classifier.training
        classifier.eval()
        shards = ShardSet.open(str(self.settings.data.test))
        counted = guesses_counted(len(shards.manifest.classes))
        hits, seen = dict.fromkeys(counted, 0), 0
        for images in self._images(shards):
            parts = zip(images.pixels.split(_BLOCK), images.labels.split(_BLOCK), strict=True)
            for pixels, labels in parts:
                levels = to_input(pixels.to(self.device), self.settings)
                with autocast(self.settings.training, self.device):
                    logits = classifier(levels).float().cpu()
                for k in counted:
                    hits[k] += count_hits(logits, labels, k)
                seen += len(labels)
        classifier.train(was_training)
        total = sum_numbers(seen, self.device)
        correct = {f"test/top{k}": sum_numbers(hits[k], self.device) for k in counted}
        return Probing(measures={name: hits / total for name, hits in correct.items()})

    def _images(self, shards: ShardSet) -> Iterator[LabelledImages]:
        manifest = shards.manifest
        num_groups = -(-manifest.num_rows // manifest.rows_per_row_group)
        for group in range(self.rank, num_groups, self.world_size):
            yield load_images(shards.read(np.array([group])), self.settings)
