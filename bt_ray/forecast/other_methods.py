"""What methods other than Barlow Twins hold in memory, counted without computing anything."""

import torch
from torch import nn

from bt_ray.config import Settings
from bt_ray.methods.build import build_learner

_META = torch.device("meta")
_FLOAT32_BYTES = 4
_KEPT = 3
"""Copies of a matrix of scores: the scores, what softmax makes of them, their gradient."""


def network_of(settings: Settings, num_images: int) -> nn.Module:
    """The method's whole network, with its queue, bank and followers, without memory.

    An encoder from elsewhere is built in memory first: its code may ask tensors for their numbers.

    Args:
      num_images: of the training set.
    """
    if not settings.model.is_built_in:
        return build_learner(settings, _META, steps_per_epoch=1, num_images=num_images).module
    with _META:
        return build_learner(settings, _META, steps_per_epoch=1, num_images=num_images).module


def scores_bytes(settings: Settings) -> int:
    """Bytes of what a method makes of all gathered embeddings: its scores and their gradients.

    What is of the size of the embeddings themselves is not among them.
    """
    return _KEPT * _FLOAT32_BYTES * num_scores(settings)


def num_scores(settings: Settings) -> int:
    """How many products of embeddings a method computes in a step, of D numbers each."""
    objective, n = settings.objective, settings.data.global_batch
    width, num_views = settings.model.projector_widths[-1], 2 + settings.views.small_count
    match objective.method:
        case "simclr":
            numbers = (2 * n) ** 2
        case "moco_v2":
            numbers = n * (1 + objective.moco_v2.queue_rows)
        case "pirl":
            numbers = 2 * n * (1 + objective.pirl.negatives)
        case "swav":
            numbers = num_views * n * objective.swav.prototypes
        case "deepcluster":
            chosen = objective.deepcluster
            numbers = num_views * n * chosen.prototypes * chosen.heads
        case "sela":
            labels = objective.sela
            numbers = num_views * n * labels.prototypes * labels.heads
        case "vicreg" | "imax":
            numbers = 2 * width**2
        case "wmse":
            numbers = 2 * objective.wmse.slices * (n // objective.wmse.rows) * width**2
        case _:
            numbers = 0
    return numbers
