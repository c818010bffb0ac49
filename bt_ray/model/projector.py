"""The projector: an MLP from representations to embeddings (paper, section 2.2)."""

from collections.abc import Sequence

from torch import nn


def build_projector(
    num_features: int,
    widths: Sequence[int],
    *,
    batch_norm: bool = True,
    last_norm: bool = False,
) -> nn.Sequential:
    """Linear layers of the given widths; all but the last are followed by batch norm and ReLU.

    The linear layers have no biases, as in the reference code: each is followed by a normalisation,
    the last one by the objective's. Without batch norm (Table 5) all layers but the last have
    biases, in place of batch norm's shift; the paper does not say so.

    Args:
      num_features: F, the length of a representation.
      widths: output units of each layer, one or more; the last is D.
      batch_norm: whether there is any.
      last_norm: whether the last layer is followed by batch norm, too, without scale and shift.
    """
    modules: list[nn.Module] = []
    for i, width in enumerate(widths):
        is_last = i == len(widths) - 1
        modules.append(nn.Linear(num_features, width, bias=not (batch_norm or is_last)))
        if not is_last:
            modules += [nn.BatchNorm1d(width)] if batch_norm else []
            modules.append(nn.ReLU(inplace=True))
        num_features = width
    if last_norm:
        modules.append(nn.BatchNorm1d(widths[-1], affine=False))
    return nn.Sequential(*modules)
