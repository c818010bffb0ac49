"""IMAX: the information that two views' embeddings share (Becker and Hinton 1992)."""

import torch
from torch import Tensor

from bt_ray.config import Settings
from bt_ray.methods.factors import SingularityWatch, factors
from bt_ray.methods.learner import Embedded, Outcome
from bt_ray.methods.pretraining import PretrainingLearner
from bt_ray.methods.rows import spread_of_rows
from bt_ray.objective.correlation import correlation_matrix


class ImaxLearner(PretrainingLearner):
    """log |C(Z_A − Z_B)| − log |C(Z_A + Z_B)|, the covariances those of the global batch.

    The Barlow Twins paper writes down the loss and nothing else of the experiment, which did not
    succeed on ImageNet. Projector and optimizer are ours.
    """

    def __init__(
        self, settings: Settings, device: torch.device, *, steps_per_epoch: int, num_images: int
    ) -> None:
        super().__init__(settings, device, steps_per_epoch=steps_per_epoch, num_images=num_images)
        self._watch = SingularityWatch(device, _more(settings))

    def objective(self, embedded: Embedded) -> Outcome:
        """The loss of the embeddings, computed outside autocast, and its two terms."""
        with self.autocast():
            z_a, z_b = self.module.project(*embedded)
        num_rows = sum(self.rows)
        difference, total, is_singular = log_determinants(z_a, z_b, num_rows)
        loss = self._watch.mark(difference - total, is_singular)
        terms = {
            "log_det_difference": difference.detach(),
            "log_det_sum": total.detach(),
            "spread": spread_of_rows(z_a, num_rows),
        }
        return Outcome(loss, terms, (z_a, z_b))

    def after_step(self, step: int) -> None:
        """Says why, if a determinant was 0.

        Raises: SingularCovarianceError
        """
        if self.is_logged(step):
            self._watch.check(step)


def log_determinants(z_a: Tensor, z_b: Tensor, num_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """The two logarithms, log |C(Z_A − Z_B)| and log |C(Z_A + Z_B)|, and whether either is of 0.

    In float64, since log |C| counts C's least directions as much as its largest. Covariances are
    divided by N; any other divisor gives the same difference of the two.

    Args:
      z_a, z_b: (n, D) float, of this worker's rows.
      num_rows: N, the rows of all workers; N > D.
    Returns: two scalars and a scalar bool, identical on every worker.
    Source: Zbontar et al. 2021, section 5.1, after Becker and Hinton 1992 and Zemel and Hinton
      1990.
    """
    a, b = z_a.double(), z_b.double()
    both = (correlation_matrix(z, z, num_rows, None, "covariance") for z in (a - b, a + b))
    lower, is_singular = factors(torch.stack([*both]))
    logs = 2 * lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    difference, total = logs.to(torch.promote_types(z_a.dtype, torch.float32))
    return difference, total, is_singular


def _more(settings: Settings) -> str:
    """How covariances become ones that have a determinant."""
    widths = settings.model.projector_widths
    return (
        "Start a run of another name with fewer dimensions (model.projector_widths="
        f"{widths}), a larger data.global_batch={settings.data.global_batch} or a lower "
        f"{settings.optimizer.rate_setting}."
    )
