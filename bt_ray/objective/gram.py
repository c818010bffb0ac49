"""The terms of the loss from two N×N Gram matrices, without C (forward and backward).

With standardised embeddings Ẑ (N, D) and C = Ẑ_Aᵀ Ẑ_B / N (Eq. 2),

    Σᵢⱼ Cᵢⱼ² = tr(Ẑ_Bᵀ Ẑ_A Ẑ_Aᵀ Ẑ_B) / N² = ⟨K_A, K_B⟩ / N²,   K = Ẑ Ẑᵀ,
    ∂/∂Ẑ_A Σᵢⱼ Cᵢⱼ² = 2 K_B Ẑ_A / N²,

and the diagonal of C takes N·D products. Derivation: docs/beyond-16000-dimensions.md.
The same holds for embeddings that are only centred, or not changed at all; the gradient of Z then
has fewer terms.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bt_ray.objective.standardize import EPSILON, Statistic

_BLOCK_COLUMNS = 1024
_BLOCK_ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 25}
"""How much is standardised at a time: at least so many columns, which keeps matrix products fast,
and up to so many elements: few fit a CPU's cache; many mean few kernel launches on a GPU."""


def _identity(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True, kw_only=True)
class Share:
    """Which part of the Gram matrices a worker computes, and how the parts are put together."""

    rows: slice = field(default_factory=lambda: slice(None))
    """This worker's rows of the global batch; it computes the gradient of these."""
    gather: Callable[[Tensor], Tensor] = _identity
    """Turns this worker's rows (n, d) into those of the global batch (N, d)."""
    add_rows: Callable[[Tensor], Tensor] = _identity
    """Sums a tensor over the workers, if each has other rows."""
    add_columns: Callable[[Tensor], Tensor] = _identity
    """Sums a tensor over the workers, if each has other columns."""


def gram_terms(
    z_a: Tensor, z_b: Tensor, share: Share, statistic: Statistic
) -> tuple[Tensor, Tensor]:
    """The two terms of `barlow.barlow_twins_terms`, from the Gram matrices.

    Memory beyond the embeddings and their gradients is O(N²) + O(N + D): standardised columns are
    computed block by block, and computed again in backward.

    Args:
      z_a, z_b: (n, d) float: this worker's share of the embeddings.
      share: which share that is.
      statistic: what C is the mean product of (`barlow.barlow_twins_terms`).
    Returns: two scalars, identical on every worker.
    """
    on_diagonal, off_diagonal = _GramTerms.apply(z_a, z_b, share, statistic)
    return on_diagonal, off_diagonal


class _GramTerms(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, z_a: Tensor, z_b: Tensor, share: Share, statistic: Statistic
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(torch.promote_types(z_a.dtype, z_b.dtype), torch.float32)
        all_a, all_b = share.gather(z_a), share.gather(z_b)
        n, d = all_a.shape
        grams = z_a.new_zeros((2, len(z_a), n), dtype=wide)
        k_a, k_b = grams
        diagonal, *moments = z_a.new_empty((5, d), dtype=wide)
        for block in _blocks(all_a):
            a = _normalize(all_a[:, block], moments[0][block], moments[1][block], statistic)
            b = _normalize(all_b[:, block], moments[2][block], moments[3][block], statistic)
            k_a.addmm_(a[share.rows], a.T)
            k_b.addmm_(b[share.rows], b.T)
            torch.sum(a.mul_(b), 0, out=diagonal[block])
        diagonal /= n
        k_a, k_b = share.add_columns(grams)
        # off is a difference of sums, and both may be far larger: they are added up in float64.
        total = share.add_rows(_inner(k_a, k_b)) / n**2
        sums = torch.stack([(1 - diagonal).double().square().sum(), _inner(diagonal, diagonal)])
        on_diagonal, squares = share.add_columns(sums)
        ctx.share, ctx.statistic = share, statistic
        ctx.save_for_backward(all_a, all_b, k_a, k_b, diagonal, *moments)
        return on_diagonal.to(wide), (total - squares).to(wide)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_on: Tensor, grad_off: Tensor) -> tuple[Tensor, Tensor, None, None]:
        all_a, all_b, k_a, k_b, diagonal, mean_a, scale_a, mean_b, scale_b = ctx.saved_tensors
        n, rows = len(all_a), ctx.share.rows
        grad_a, grad_b = (torch.empty_like(z[rows]) for z in (all_a, all_b))
        with torch.autocast(all_a.device.type, enabled=False):
            k_a, k_b = (k * (2 * grad_off / n**2) for k in (k_a, k_b))
            weight = (grad_on * (diagonal - 1) - grad_off * diagonal) * (2 / n)
            for block in _blocks(all_a):
                a = torch.sub(all_a[:, block], mean_a[block]).mul_(scale_a[block])
                b = torch.sub(all_b[:, block], mean_b[block]).mul_(scale_b[block])
                for grad, k, mine, other, scale in (
                    (grad_a, k_b, a, b, scale_a),
                    (grad_b, k_a, b, a, scale_b),
                ):
                    # Gradient of the standardised column g, then of the column itself: the mean
                    # of g is 0 if the columns are centred, so that only its part along a
                    # standardised column is to be taken away.
                    g = (other[rows] * weight[block]).addmm_(k, mine)
                    if ctx.statistic == "correlation":
                        along = ctx.share.add_rows((g * mine[rows]).sum(0)) / n
                        g.addcmul_(mine[rows], along, value=-1)
                    torch.mul(g, scale[block], out=grad[:, block])
        return grad_a, grad_b, None, None


def _blocks(z: Tensor) -> Iterator[slice]:
    elements = _BLOCK_ELEMENTS.get(z.device.type, _BLOCK_ELEMENTS["cuda"])
    width = max(_BLOCK_COLUMNS, elements // max(1, len(z)))
    return (slice(start, start + width) for start in range(0, z.shape[1], width))


def _normalize(z: Tensor, mean: Tensor, scale: Tensor, statistic: Statistic) -> Tensor:
    """A new (N, d), `z` as `statistic` wants it; fills in the mean and scale (d,) that did it."""
    if statistic == "moment":
        mean.zero_()
    else:
        torch.div(z.sum(0, dtype=mean.dtype), len(z), out=mean)
    centered = z - mean
    if statistic != "correlation":
        scale.fill_(1)
        return centered
    variance = centered.square().sum(0).div_(len(z))
    torch.rsqrt(variance + EPSILON, out=scale)
    return centered.mul_(scale)


def _inner(x: Tensor, y: Tensor) -> Tensor:
    """⟨x, y⟩ in float64, of some rows at a time."""
    pairs = zip(x.split(2048), y.split(2048), strict=True)
    return torch.stack([(part.double() * other).sum() for part, other in pairs]).sum()
