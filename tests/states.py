"""A run's state before its first step, as tests take it apart."""

from typing import cast

import torch

from bt_ray.checkpoints.state import TrainingState
from bt_ray.config import Settings
from bt_ray.methods.barlow_twins import BarlowTwinsLearner
from bt_ray.model.twins import Twins
from bt_ray.training.loop import begin


def build_state(settings: Settings, device: torch.device) -> TrainingState[Twins]:
    """Twins with weights drawn from the seed, and what it takes to train them."""
    learner = BarlowTwinsLearner(settings, device, steps_per_epoch=1)
    return cast(TrainingState[Twins], begin(learner, settings, device))
