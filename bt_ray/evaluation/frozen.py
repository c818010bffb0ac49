"""What a frozen encoder's features are worth: any way to score them, on any labelled images."""

from collections.abc import Callable
from typing import Protocol

import torch

from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.errors import CheckpointError
from bt_ray.evaluation.features import Features, compute_features, fingerprint
from bt_ray.evaluation.labelled import check_disjoint, check_labels
from bt_ray.model.pretrained import Pretrained

Scores = dict[str, float]
Method = Callable[[Features, Features], Scores]
"""Learns from the first features, scores on the second; such as `knn.Knn`, `linear.Linear`."""


class Compute(Protocol):
    """Computes the features of all images of a data set, such as `features.compute_features`."""

    def __call__(
        self,
        pretrained: Pretrained,
        shards: ShardSet,
        device: torch.device,
        on_progress: Callable[[int], None],
    ) -> Features:
        """Features in the order of the data set; the encoder stays as it is."""


def score_frozen(
    pretrained: Pretrained,
    train: ShardSet,
    test: ShardSet,
    method: Method,
    *,
    device: torch.device,
    compute: Compute = compute_features,
    most_shared: int = 0,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Scores:
    """Scores of the encoder by name, learnt from `train` and measured on `test`.

    Args:
      compute: how features are computed.
      most_shared: test images that may also be among the training images, byte for byte.
      on_progress: is told how many images of both sets are done.
    Raises: DataError if images have no labels, the sets differ in their classes or share
      images; CheckpointError if the encoder came out changed.
    """
    before = fingerprint(pretrained.encoder)
    of_train = compute(pretrained, train, device, on_progress)
    of_test = compute(pretrained, test, device, lambda done: on_progress(len(of_train) + done))
    if fingerprint(pretrained.encoder) != before:
        raise CheckpointError("The encoder changed while it was evaluated; it must be frozen.")
    check_labels(of_train, of_test)
    check_disjoint(of_train.digests, of_test.digests, most_shared=most_shared)
    return method(of_train, of_test)
