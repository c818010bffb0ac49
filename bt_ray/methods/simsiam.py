"""SimSiam: each view predicts the other, which has no gradient (Chen and He 2021)."""

from torch import Tensor
from torch.nn.functional import cosine_similarity

from bt_ray.data.stream.batches import Batch
from bt_ray.methods.learner import Embedded, Outcome
from bt_ray.methods.pretraining import PretrainingLearner, spread
from bt_ray.model.network import Network
from bt_ray.model.twins import build_network


class SimsiamLearner(PretrainingLearner):
    """The negative cosine of predictions and the other view's embeddings (Eq. 1 and 2)."""

    def build_network(self) -> Network:
        """Encoder, projector and predictor with new weights."""
        return build_network(self.settings)

    def embed(self, batch: Batch) -> Embedded:
        """Representations (n, F) of each of the two views."""
        with self.autocast():
            return self.module.represent(*self.inputs(batch.views))

    def objective(self, embedded: Embedded) -> Outcome:
        """The loss of predictions and embeddings."""
        with self.autocast():
            z_a, z_b = self.module.project(*embedded)
            p_a, p_b = self.module.through(self.module.get_submodule("predictor"), z_a, z_b)
        p_a, p_b, z_a, z_b = (self.gathered(x) for x in (p_a, p_b, z_a, z_b))
        loss = negative_cosine(p_a, z_b) / 2 + negative_cosine(p_b, z_a) / 2
        return Outcome(loss, {"spread": spread(z_a)}, (p_a, p_b))


def negative_cosine(predictions: Tensor, targets: Tensor) -> Tensor:
    """D(p, z) of Eq. 1, averaged over the rows (N, D); the targets have no gradient."""
    return -cosine_similarity(predictions, targets.detach(), dim=1).mean()
