"""The cross-correlation matrix of embeddings, to be looked at rather than minimised."""

from torch import Tensor
from torch.nn import functional


def cross_correlation(z_a: Tensor, z_b: Tensor) -> Tensor:
    """C, (D, D) float64: the correlation of each dimension of one view with each of the other.

    Without the objective's ε: in eval mode an untrained network's embeddings vary less than it.
    A constant dimension has correlation 0.

    Args:
      z_a, z_b: (n, D) embeddings of all workers; row i of both from the same image.
    Source: Zbontar et al. 2021, Eq. 2.
    """
    unit_a, unit_b = (
        functional.normalize(z.double() - z.double().mean(0), dim=0) for z in (z_a, z_b)
    )
    return unit_a.T @ unit_b
