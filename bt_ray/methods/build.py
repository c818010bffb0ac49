"""From the settings to the learner of the method that they name."""

from collections.abc import Callable, Mapping

import torch

from bt_ray.config import Method, Settings
from bt_ray.methods.barlow_twins import BarlowTwinsLearner
from bt_ray.methods.byol import ByolLearner
from bt_ray.methods.deepcluster import DeepClusterLearner
from bt_ray.methods.imax import ImaxLearner
from bt_ray.methods.moco_v2 import MocoLearner
from bt_ray.methods.nat import NatLearner
from bt_ray.methods.pirl import PirlLearner
from bt_ray.methods.pretraining import PretrainingLearner
from bt_ray.methods.sela import SelaLearner
from bt_ray.methods.simclr import SimclrLearner
from bt_ray.methods.simsiam import SimsiamLearner
from bt_ray.methods.swav import SwavLearner
from bt_ray.methods.vicreg import VicregLearner
from bt_ray.methods.wmse import WmseLearner

LEARNERS: Mapping[Method, Callable[..., PretrainingLearner]] = {
    "barlow_twins": BarlowTwinsLearner,
    "simclr": SimclrLearner,
    "moco_v2": MocoLearner,
    "simsiam": SimsiamLearner,
    "pirl": PirlLearner,
    "nat": NatLearner,
    "byol": ByolLearner,
    "wmse": WmseLearner,
    "imax": ImaxLearner,
    "vicreg": VicregLearner,
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
