"""From the settings to the learner of the method that they name."""

from collections.abc import Callable, Mapping

import torch

from bt_ray.config import Method, Settings
from bt_ray.methods.barlow_twins import BarlowTwinsLearner
from bt_ray.methods.deepcluster import DeepClusterLearner
from bt_ray.methods.pretraining import PretrainingLearner
from bt_ray.methods.sela import SelaLearner
from bt_ray.methods.simclr import SimclrLearner
from bt_ray.methods.simsiam import SimsiamLearner
from bt_ray.methods.swav import SwavLearner

LEARNERS: Mapping[Method, Callable[..., PretrainingLearner]] = {
    "barlow_twins": BarlowTwinsLearner,
    "simclr": SimclrLearner,
    "simsiam": SimsiamLearner,
    "swav": SwavLearner,
    "deepcluster": DeepClusterLearner,
    "sela": SelaLearner,
}
"""By the name of the method."""


def build_learner(
    settings: Settings, device: torch.device, *, steps_per_epoch: int, num_images: int
) -> PretrainingLearner:
    """What pretrains by `objective.method`.

    Args:
      num_images: of the training set.
    """
    made = LEARNERS[settings.objective.method]
    return made(settings, device, steps_per_epoch=steps_per_epoch, num_images=num_images)
