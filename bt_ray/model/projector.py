"""The projector: an MLP from representations to embeddings (paper, section 2.2)."""

from collections.abc import Sequence

from torch import nn


def build_projector(num_features: int, widths: Sequence[int]) -> nn.Sequential:
    """Linear layers of the given widths; all but the last followed by batch norm and ReLU.

    The linear layers have no bias, as in the reference code: each is followed by a
    normalisation, the last by the objective's own.
    """
    modules: list[nn.Module] = []
    for i, width in enumerate(widths):
        modules.append(nn.Linear(num_features, width, bias=False))
        if i < len(widths) - 1:
            modules += [nn.BatchNorm1d(width), nn.ReLU(inplace=True)]
        num_features = width
    return nn.Sequential(*modules)
