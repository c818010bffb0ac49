"""What LARS does to weights, by torch's own operations."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim.sgd import sgd


class Triple(NamedTuple):
    """A weight, its gradient and its momentum, of one shape."""

    w: Tensor
    g: Tensor
    m: Tensor


@dataclass(frozen=True, kw_only=True)
class Update:
    """The numbers of one step of a parameter group, by the symbols of `LARS`."""

    rate: float
    """γ."""
    weight_decay: float
    """β."""
    momentum: float
    """μ."""
    trust_coefficient: float
    """η."""
    adapt: bool
    grad_scale: Tensor | None = None
    """() float32, on the weights' device: what gradients are divided by; None for 1."""
    found_inf: Tensor | None = None
    """() float32, on the weights' device: nothing moves unless it is 0; None for 0."""


def update_plainly(triple: Triple, update: Update) -> None:
    """Moves a weight and its momentum, of any device, type and strides.

    An adapted weight is read or written 13 times: g + β·w 3, two norms 2, momentum 2 + 3, w 3.
    With a loss scale it is 21 times, since the device chooses between old and new values.
    """
    w, g, m = triple
    d = g if update.grad_scale is None else g / update.grad_scale
    ratio = None
    if update.adapt:
        d = torch.add(d, w, alpha=update.weight_decay, out=None if d is g else d)
        ratio = trust_ratios(w.norm(), d.norm(), update.trust_coefficient)
    if update.found_inf is None:
        _add(m.mul_(update.momentum), d, ratio)
        w.add_(m, alpha=-update.rate)
        return
    skips = update.found_inf != 0
    moved = _add(m * update.momentum, d, ratio)
    torch.where(skips, m, moved, out=m)
    torch.add(w, m, alpha=-update.rate, out=moved)
    torch.where(skips, w, moved, out=w)


def update_together(triples: Sequence[Triple], update: Update) -> None:
    """Moves weights that are not adapted by torch's fused SGD: one launch for hundreds of them.

    The gradients are unscaled in place.
    """
    weights, gradients, momenta = (list(column) for column in zip(*triples, strict=True))
    sgd(
        weights,
        gradients,
        momenta,
        fused=True,
        grad_scale=update.grad_scale,
        found_inf=update.found_inf,
        weight_decay=0,
        momentum=update.momentum,
        lr=update.rate,
        dampening=0,
        nesterov=False,
        maximize=False,
    )


def trust_ratios(of_weights: Tensor, of_updates: Tensor, trust_coefficient: float) -> Tensor:
    """η·‖w‖/‖d‖ by the norms, of any shape; 1 where a norm is 0."""
    ratios = trust_coefficient * of_weights / of_updates
    usable = (of_weights > 0) & (of_updates > 0)
    return torch.where(usable, ratios, torch.ones_like(ratios))


def _add(momentum: Tensor, d: Tensor, ratio: Tensor | None) -> Tensor:
    return momentum.add_(d) if ratio is None else momentum.addcmul_(d, ratio)
