"""The objectives of Table 5, and those that section 5.2 proposes.

λ is that of Eq. 1, N the global batch, Ẑ (N, D) the embeddings with mean 0 and variance 1 of each
dimension over it (`standardize`), C = Ẑ_Aᵀ Ẑ_B / N (Eq. 2). Two kinds of rows of the table are not
here: "No BN in MLP" is a setting of the model, and "no Normalization" is `BarlowTwins` with the
statistic "covariance".
Source: Zbontar et al. 2021, section 4, "Loss Function Ablations".
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bt_ray.distributed.collectives import row_counts
from bt_ray.objective.barlow import barlow_twins_terms
from bt_ray.objective.correlation import correlation_diagonal, correlation_matrix
from bt_ray.objective.forms import Form
from bt_ray.objective.objective import Objective, weighted
from bt_ray.objective.standardize import EPSILON, standardize, widen


class InvarianceOnly(nn.Module):
    """Σᵢ (1 − Cᵢᵢ)²: Eq. 1 without its second term ("Only invariance term").

    Only the diagonal of C is computed, in N·D products.
    """

    def forward(self, z_a: Tensor, z_b: Tensor, counts: Sequence[int] | None = None) -> Objective:
        """The objective of two batches of embeddings (n, D); `counts`: every worker's n."""
        on_diagonal = _invariance(z_a, z_b, counts)
        return Objective(loss=on_diagonal, terms={"on_diagonal": on_diagonal.detach()})


class RedundancyOnly(nn.Module):
    """λ Σᵢ Σ_{j≠i} Cᵢⱼ²: Eq. 1 without its first term ("Only red. red. term").

    The term `on_diagonal` is reported too, though nothing minimises it.
    """

    def __init__(self, redundancy_weight: float, *, form: Form = "auto") -> None:
        super().__init__()
        self.redundancy_weight = redundancy_weight
        self.form = form

    def forward(self, z_a: Tensor, z_b: Tensor, counts: Sequence[int] | None = None) -> Objective:
        """The objective of two batches of embeddings (n, D); `counts`: every worker's n."""
        on_diagonal, off_diagonal = barlow_twins_terms(z_a, z_b, form=self.form, counts=counts)
        return Objective(
            loss=self.redundancy_weight * off_diagonal,
            terms={"on_diagonal": on_diagonal.detach(), "off_diagonal": off_diagonal.detach()},
        )


class FeatureNormalization(nn.Module):
    """Eq. 1 of embeddings that lie on a sphere ("Normalization along feature dim.").

    The text: "we first normalize the embeddings along the batch dimension (with mean
    subtraction), then normalize the embeddings along the feature dimension (without mean
    subtraction), and finally we measure the (unnormalized) covariance matrix". So

        Y[b] = √D Ẑ[b] / ‖Ẑ[b]‖,   C = Y_Aᵀ Y_B / N.

    Two choices are ours: no mean is subtracted a second time; and the sphere's radius is √D, where
    the text says "unit sphere". On the unit sphere tr C is a mean cosine, at most 1, but Eq. 1 asks
    for a trace of D.
    """

    def __init__(self, redundancy_weight: float, *, form: Form = "auto") -> None:
        super().__init__()
        self.redundancy_weight = redundancy_weight
        self.form = form

    def forward(self, z_a: Tensor, z_b: Tensor, counts: Sequence[int] | None = None) -> Objective:
        """The objective of two batches of embeddings (n, D); `counts`: every worker's n."""
        counts = row_counts(z_a) if counts is None else counts
        num_rows = sum(counts)
        y_a, y_b = (to_sphere(standardize(z, num_rows)) for z in widen(z_a, z_b))
        terms = barlow_twins_terms(y_a, y_b, form=self.form, statistic="moment", counts=counts)
        return weighted(*terms, self.redundancy_weight)


class AutoCorrelation(nn.Module):
    """Σᵢ (1 − Cᵢᵢ)² + λ Σᵢ Σ_{j≠i} Aᵢⱼ² with A = Ẑ_Aᵀ Ẑ_A / N (section 5.2).

    The text: redundancy "could be computed from the off-diagonal terms of the auto-correlation
    matrix of a single network's embedding". It does not say which network's; we take the first
    view's.
    """

    def __init__(self, redundancy_weight: float, *, form: Form = "auto") -> None:
        super().__init__()
        self.redundancy_weight = redundancy_weight
        self.form = form

    def forward(self, z_a: Tensor, z_b: Tensor, counts: Sequence[int] | None = None) -> Objective:
        """The objective of two batches of embeddings (n, D); `counts`: every worker's n."""
        on_diagonal = _invariance(z_a, z_b, counts)
        _, off_diagonal = barlow_twins_terms(z_a, z_a, form=self.form, counts=counts)
        return weighted(on_diagonal, off_diagonal, self.redundancy_weight)


class CrossEntropy(nn.Module):
    """−log Σᵢ exp(Cᵢᵢ/τ) + λ log Σᵢ Σ_{j≠i} exp(max(Cᵢⱼ, 0)/τ) ("Cross-entropy with temp.").

    The equation is the text's. It needs every entry of C, so each worker holds a D×D matrix; and
    the second sum needs D ≥ 2. Both terms may be negative. Neither τ nor this loss's λ is
    published. The derivative of max(c, 0) at 0 is taken to be 0.
    """

    def __init__(self, redundancy_weight: float, temperature: float) -> None:
        super().__init__()
        self.redundancy_weight = redundancy_weight
        self.temperature = temperature

    def forward(self, z_a: Tensor, z_b: Tensor, counts: Sequence[int] | None = None) -> Objective:
        """The objective of two batches of embeddings (n, D), D ≥ 2; `counts`: every worker's n."""
        counts = row_counts(z_a) if counts is None else counts
        num_rows = sum(counts)
        with torch.autocast(z_a.device.type, enabled=False):
            c = correlation_matrix(*widen(z_a, z_b), num_rows)
            itself = torch.eye(len(c), dtype=torch.bool, device=c.device)
            scores = (torch.relu(c) / self.temperature).masked_fill(itself, -torch.inf)
            on_diagonal = -torch.logsumexp(c.diagonal() / self.temperature, 0)
            off_diagonal = torch.logsumexp(scores, (0, 1))
        return weighted(on_diagonal, off_diagonal, self.redundancy_weight)


def to_sphere(z: Tensor) -> Tensor:
    """`z` (n, D) with each row scaled to length √D; ε in its mean square keeps zero rows finite."""
    return z * torch.rsqrt(z.square().mean(1, keepdim=True) + EPSILON)


def _invariance(z_a: Tensor, z_b: Tensor, counts: Sequence[int] | None) -> Tensor:
    """Σᵢ (1 − Cᵢᵢ)², from the diagonal alone."""
    counts = row_counts(z_a) if counts is None else counts
    diagonal = correlation_diagonal(*widen(z_a, z_b), sum(counts))
    return (1 - diagonal).square().sum()
