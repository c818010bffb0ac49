"""Signs of collapse, read off the representations."""

import torch
from torch import Tensor
from torch.nn import functional

_SMALL = 1e-12  # of the largest eigenvalue: a millionth of the largest singular value


def rank_me(representations: Tensor) -> float:
    """Effective rank of (n, F) representations, between 1 and min(n, F).

    The exponential of the entropy of the normalised singular values.
    Source: Garrido et al. 2023, "RankMe", Eq. 1.
    """
    singular = singular_values(representations)
    share = singular / singular.sum() + 1e-12
    return float(torch.exp(-(share * share.log()).sum()))


def singular_values(x: Tensor) -> Tensor:
    """The min(n, F) singular values of (n, F) `x`, float64, in no order.

    They are the roots of the smaller Gram matrix's eigenvalues, for which less is to be done. An
    eigenvalue is off by some 1e-16 of the largest, so a root is by up to 1e-8 of the largest:
    little each, but much where thousands of them should be 0. So roots below a millionth of the
    largest are found again, in what is left of `x` without the others' directions. Then all are
    off by at most some 1e-10 of the largest.
    """
    tall = x.double() if x.shape[0] >= x.shape[1] else x.double().T
    squares: Tensor = torch.linalg.eigvalsh(tall.T @ tall)
    if squares[0] > _SMALL * squares[-1]:
        return squares.sqrt()
    squares, directions = torch.linalg.eigh(tall.T @ tall)
    is_large = squares > _SMALL * squares[-1]
    large = directions[:, is_large]
    rest = tall - (tall @ large) @ large.T
    rest = rest - (rest @ large) @ large.T
    small = torch.linalg.eigvalsh(rest.T @ rest)[large.shape[1] :].clamp(min=0)
    return torch.cat([small, squares[is_large]]).sqrt()


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

    float64, each off by some 1e-15; zeros if the representations are all alike. `rank_me` condenses
    the same spectrum to one number, but of singular values, and without removing the mean.
    """
    centered = representations.double() - representations.double().mean(0)
    found: Tensor = torch.linalg.eigvalsh(centered.T @ centered).flip(0).clamp(min=0)
    return found / found.sum().clamp(min=torch.finfo(found.dtype).tiny)
