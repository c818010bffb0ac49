"""Barlow Twins pretraining, with the objective that the settings name (paper, section 2)."""

import torch

from bt_ray.config import Settings
from bt_ray.methods.learner import Embedded, Outcome
from bt_ray.methods.pretraining import PretrainingLearner
from bt_ray.model.twins import Twins, build_twins
from bt_ray.objective.build import build_objective


class BarlowTwinsLearner(PretrainingLearner):
    """Twins with weights drawn from the seed, their objective and optimizer.

    The representations are what `embed` makes of the views; projector, predictor and loss belong
    to the objective, in which the whole batch takes part.
    """

    module: Twins

    def __init__(
        self, settings: Settings, device: torch.device, *, steps_per_epoch: int, num_images: int = 0
    ) -> None:
        super().__init__(settings, device, steps_per_epoch=steps_per_epoch, num_images=num_images)
        self._loss_of = build_objective(settings.objective)

    def build_network(self) -> Twins:
        """Twins with new weights."""
        return build_twins(self.settings)

    def objective(self, embedded: Embedded) -> Outcome:
        """The loss of the embeddings, computed outside autocast, and its terms."""
        representations_a, representations_b = embedded
        with self.autocast():
            z_a, z_b = self.module.project(representations_a, representations_b)
        result = self._loss_of(z_a, z_b, self.rows)
        return Outcome(result.loss, result.terms, (z_a, z_b))
