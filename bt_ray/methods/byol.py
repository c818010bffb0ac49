"""BYOL: each view predicts what a slower network makes of the other (Grill et al. 2020)."""

import math

import torch

from bt_ray.data.stream.batches import Batch
from bt_ray.methods.learner import Embedded, Outcome
from bt_ray.methods.pretraining import PretrainingLearner
from bt_ray.methods.rows import negative_cosine, spread_of_rows
from bt_ray.model.network import Follower, Network
from bt_ray.model.twins import build_network


class ByolLearner(PretrainingLearner):
    """The squared distance of normalised predictions and the target network's projections.

    The online network is encoder, projector and predictor. The target network, `target`, is an
    encoder and a projector that follow the online ones after each step. The batch norms of both
    compute statistics of their own batches, as the authors' do.

    The target begins as a copy of the online network, where the paper leaves open how it begins:
    so it does, too, with the weights that `model.start_from` names.
    """

    def build_network(self) -> Network:
        """Encoder, projector, predictor and target with new weights."""
        network = build_network(self.settings)
        self._target = Follower(network)
        network.add_module("target", self._target)
        return network

    def begin(self) -> None:
        """Takes the first weights, if others than those drawn are to be taken; so does the target.

        Raises: CheckpointError if they cannot be read or do not fit.
        """
        super().begin()
        self._target.copy(self.module)

    def embed(self, batch: Batch) -> Embedded:
        """Representations (n, F) of each of the two views: the online network's, the target's."""
        views = self.inputs(batch.views)
        with self.autocast():
            online = self.module.represent(*views)
            with torch.no_grad():
                return *online, *self._target.represent(*views)

    def objective(self, embedded: Embedded) -> Outcome:
        """The loss of predictions and the other view's target, both ways.

        Source: Grill et al. 2020, Eq. 2 (loss), section 3.1 (both ways, added up).
        """
        online, target = embedded[:2], embedded[2:]
        with self.autocast():
            z_a, z_b = self.module.project(*online)
            p_a, p_b = self.module.through(self.module.get_submodule("predictor"), z_a, z_b)
            with torch.no_grad():
                t_a, t_b = self._target.project(*target)
        num_rows = sum(self.rows)
        # ‖p̄ − t̄‖² = 2 − 2 cos(p, t), once for each view.
        loss = 4 + 2 * (negative_cosine(p_a, t_b, num_rows) + negative_cosine(p_b, t_a, num_rows))
        terms = {"spread": spread_of_rows(t_a, num_rows)}
        return Outcome(loss, terms, (p_a, p_b, t_a, t_b))

    def after_step(self, step: int) -> None:
        """The target follows the weights that the step made."""
        first = self.settings.objective.byol.momentum
        self._target.follow(self.module, momentum(first, step - 1, self.total_steps))


def momentum(first: float, step: int, total_steps: int) -> float:
    """τ of the update after `step`, counted from 0: `first` at the beginning, 1 at the end.

    Source: Grill et al. 2020, section 3.2: τ = 1 − (1 − τ_base) (cos(πk/K) + 1) / 2.
    """
    return 1 - (1 - first) * (math.cos(math.pi * step / total_steps) + 1) / 2
