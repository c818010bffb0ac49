"""SimSiam: each view predicts the other, which has no gradient (Chen and He 2021)."""

from bt_ray.methods.learner import Embedded, Outcome
from bt_ray.methods.pretraining import PretrainingLearner
from bt_ray.methods.rows import negative_cosine, spread_of_rows


class SimsiamLearner(PretrainingLearner):
    """The negative cosine of predictions and the other view's embeddings.

    The heads' layers, batch norms and activations are those of section 3. Two things differ from
    the paper: the predictor's last layer has no bias, as no last layer of a head here has one; and
    the optimizer is the settings' (LARS), not SGD.

    Source: Chen and He 2021, Eq. 2 and 4 (loss), Algorithm 1.
    """

    def objective(self, embedded: Embedded) -> Outcome:
        """The loss of predictions and embeddings."""
        with self.autocast():
            z_a, z_b = self.module.project(*embedded)
            p_a, p_b = self.module.through(self.module.get_submodule("predictor"), z_a, z_b)
        num_rows = sum(self.rows)
        loss = negative_cosine(p_a, z_b, num_rows) / 2 + negative_cosine(p_b, z_a, num_rows) / 2
        return Outcome(loss, {"spread": spread_of_rows(z_a, num_rows)}, (p_a, p_b))
