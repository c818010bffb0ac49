"""Cholesky factors of covariance matrices, and what is said of those that have none."""

import torch
from torch import Tensor

from bt_ray.errors import SingularCovarianceError


def factors(covariances: Tensor) -> tuple[Tensor, Tensor]:
    """L of each matrix C = L Lᵀ, lower triangular, and whether some matrix has none.

    Nothing is copied to the host, as `torch.linalg.cholesky` would to see whether it worked.

    Args:
      covariances: (…, D, D) float, symmetric.
    Returns: (…, D, D), whose values mean nothing where there is no factor; a scalar bool.
    """
    lower, codes = torch.linalg.cholesky_ex(covariances)
    return lower, (codes != 0).any()


class SingularityWatch:
    """Makes a loss without factors NaN, and tells why when it is asked.

    Args:
      ways_out: what to do about it: settings, their rule and their values.
    """

    def __init__(self, device: torch.device, ways_out: str) -> None:
        self._ways_out = ways_out
        self._seen = torch.zeros((), dtype=torch.bool, device=device)

    def mark(self, loss: Tensor, is_singular: Tensor) -> Tensor:
        """The loss, or NaN, by which the loop stops the run, if some matrix had no factor."""
        self._seen = self._seen | is_singular
        return torch.where(is_singular, torch.nan, loss)

    def check(self, step: int) -> None:
        """Waits for the device; called by every worker after a step, when measures are logged.

        Raises: SingularCovarianceError if some matrix had no factor, in any step so far.
        """
        if bool(self._seen):
            raise SingularCovarianceError(
                f"A covariance of the embeddings is singular at step {step - 1} or shortly before. "
                f"The last checkpoint is kept. {self._ways_out}"
            )
