"""W-MSE: whitened embeddings of an image's views agree (Ermolov et al. 2021)."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from bt_ray.config import Settings
from bt_ray.methods.factors import SingularityWatch, factors
from bt_ray.methods.learner import Embedded, Outcome
from bt_ray.methods.pretraining import PretrainingLearner, spread


class WmseLearner(PretrainingLearner):
    """The squared distance of whitened, normalised embeddings.

    The batch is cut at random into sub-batches, in each of which either view's embeddings are
    whitened; `objective.wmse.slices` such cuts are averaged. Every worker draws the same cuts of
    the global batch, so the loss is the same for any number of workers.

    The projector's batch norm uses each view's own statistics, where the authors' code passes both
    views through it as one batch; the paper does not say which.
    """

    def __init__(
        self, settings: Settings, device: torch.device, *, steps_per_epoch: int, num_images: int
    ) -> None:
        super().__init__(settings, device, steps_per_epoch=steps_per_epoch, num_images=num_images)
        self._watch = SingularityWatch(device, _more(settings))

    def objective(self, embedded: Embedded) -> Outcome:
        """The loss of the embeddings, computed outside autocast."""
        with self.autocast():
            z_a, z_b = self.module.project(*embedded)
        of_a, of_b = self.gathered(z_a), self.gathered(z_b)
        loss, is_singular = whitened_distance(of_a, of_b, self._cuts(), self._epsilon)
        loss = self._watch.mark(loss, is_singular)
        return Outcome(loss, {"spread": spread(of_a)}, (z_a, z_b))

    def after_step(self, step: int) -> None:
        """Says why, if a sub-batch could not be whitened.

        Raises: SingularCovarianceError
        """
        if self.is_logged(step):
            self._watch.check(step)

    @property
    def _epsilon(self) -> float:
        return self.settings.objective.wmse.epsilon

    def _cuts(self) -> Tensor:
        """Which rows are whitened together, int64 (slices · N / rows, rows), on the device."""
        given, num_rows = self.settings.objective.wmse, sum(self.rows)
        generator = self.generator(self.step)
        orders = [torch.randperm(num_rows, generator=generator) for _ in range(given.slices)]
        cuts = torch.cat(orders).view(-1, given.rows)
        if self.device.type == "cuda":
            cuts = cuts.pin_memory()  # from there a copy need not be waited for
        return cuts.to(self.device, non_blocking=True)


def whitened_distance(
    z_a: Tensor, z_b: Tensor, cuts: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """The mean of ‖w̄_a − w̄_b‖² over all rows of all cuts, w̄ whitened and normalised embeddings.

    Args:
      z_a, z_b: (N, D) float; row i of both from the same image.
      cuts: int64 (S, R): the rows of each sub-batch, which are whitened together.
      epsilon: as for `whiten`.
    Returns: scalar, and whether some sub-batch could not be whitened, a scalar bool.
    Source: Ermolov et al. 2021, Eq. 2 and 6 (loss, for two positives), section 3.2 (sub-batches).
    """
    (w_a, bad_a), (w_b, bad_b) = (whiten(z[cuts], epsilon) for z in (z_a, z_b))
    cosines = (normalize(w_a, dim=-1) * normalize(w_b, dim=-1)).sum(-1)
    return (2 - 2 * cosines.mean()).to(z_a.dtype), bad_a | bad_b


def whiten(z: Tensor, epsilon: float = 0.0) -> tuple[Tensor, Tensor]:
    """Rows with mean 0 and covariance I, in each sub-batch by itself.

    W (z − μ), where Wᵀ W = Σ⁻¹: W is the inverse of Σ's lower Cholesky factor. In float64,
    because the digits that Σ's condition takes from float32 are those of its least directions,
    which whitening makes as large as all others.

    Args:
      z: (S, R, D) float; R > D unless there is an `epsilon`.
      epsilon: Σ is (1 − ε) times the covariance plus ε I, as in the authors' code; the paper has
        none (0).
    Returns: (S, R, D) float64, and whether some Σ has no factor, a scalar bool.
    Source: Ermolov et al. 2021, Eq. 3 and section 3.1.
    """
    centered = z.double() - z.double().mean(1, keepdim=True)
    covariance = centered.mT @ centered / (z.shape[1] - 1)
    identity = torch.eye(z.shape[2], dtype=centered.dtype, device=z.device)
    lower, is_singular = factors((1 - epsilon) * covariance + epsilon * identity)
    return torch.linalg.solve_triangular(lower, centered.mT, upper=False).mT, is_singular


def _more(settings: Settings) -> str:
    """How sub-batches become ones that can be whitened."""
    given, widths = settings.objective.wmse, settings.model.projector_widths
    return (
        "Start a run of another name with more rows in a sub-batch (objective.wmse.rows="
        f"{given.rows}), fewer dimensions (model.projector_widths={widths}) or a larger "
        f"objective.wmse.epsilon={given.epsilon:g}, such as 0.001."
    )
