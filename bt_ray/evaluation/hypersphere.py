"""How unit-length representations lie on the hypersphere; no labels are needed."""

from torch import Tensor
from torch.nn import functional

_BLOCK = 512


def alignment(x: Tensor, y: Tensor) -> float:
    """Mean squared distance between the two views of an image, 0 (best) to 4.

    Args:
      x, y: (n, F) representations, made unit-length here; row i of both from the same image.
    Source: Wang and Isola 2020, "Understanding contrastive representation learning through
      alignment and uniformity on the hypersphere", section 4.1, with α = 2.
    """
    x, y = functional.normalize(x.double()), functional.normalize(y.double())
    return float((x - y).square().sum(1).mean())


def uniformity(x: Tensor) -> float:
    """Logarithm of the mean Gaussian potential exp(−2 ‖xᵢ − xⱼ‖²) of two different images.

    0 where all lie on one point; about −4 where they spread evenly over many dimensions.

    Args:
      x: (n, F) representations, n ≥ 2, made unit-length here. Block by block, so that the
        n² distances are never held at once.
    Source: Wang and Isola 2020, section 4.1, with t = 2.
    """
    unit = functional.normalize(x.double())
    total = unit.new_zeros(())
    for first in range(0, len(unit), _BLOCK):
        # Between points of length 1, ‖xᵢ − xⱼ‖² = 2 − 2 xᵢ·xⱼ; each pair i < j counts once.
        cosines = unit[first : first + _BLOCK] @ unit[first:].T
        total += (4 * (cosines - 1)).exp().triu(diagonal=1).sum()
    return float((total / (len(unit) * (len(unit) - 1) / 2)).log())
