"""Signs of collapse, read off the representations."""

import torch
from torch import Tensor
from torch.nn import functional


def rank_me(representations: Tensor) -> float:
    """Effective rank of (n, F) representations, between 1 and min(n, F).

    The exponential of the entropy of the normalised singular values.
    Source: Garrido et al. 2023, "RankMe", Eq. 1.
    """
    singular = torch.linalg.svdvals(representations.double())
    share = singular / singular.sum() + 1e-12
    return float(torch.exp(-(share * share.log()).sum()))


def mean_deviation(representations: Tensor) -> float:
    """Mean standard deviation of the unit-length representations' dimensions, times √F.

    About 1 where they spread over the sphere, 0 where they collapsed to one point.
    Source: Chen and He 2020, "Exploring simple Siamese representation learning", section 4.1.
    """
    unit = functional.normalize(representations.double())
    return float(unit.std(0).mean() * representations.shape[1] ** 0.5)


def mean_correlation(representations: Tensor) -> float:
    """Mean absolute correlation, 0 to 1, between two different dimensions.

    Near 1 where all dimensions say the same; constant dimensions are left out.
    """
    deviations = representations.double().std(0)
    live = representations[:, deviations > 1e-12].double()
    if live.shape[1] < 2:
        return 0.0
    matrix = torch.corrcoef(live.T)
    off_diagonal = matrix.abs().sum() - matrix.diagonal().abs().sum()
    return float(off_diagonal / (matrix.numel() - len(matrix)))


def eigenvalues(representations: Tensor) -> Tensor:
    """Eigenvalues (F,) of the covariance of (n, F) representations, descending, sum 1.

    float64; zeros if the representations are all alike. `rank_me` condenses the same spectrum
    to one number, but of singular values, and without removing the mean.
    """
    centered = representations.double() - representations.double().mean(0)
    found: Tensor = torch.linalg.eigvalsh(centered.T @ centered).flip(0).clamp(min=0)
    return found / found.sum().clamp(min=torch.finfo(found.dtype).tiny)
