"""What an objective is to the training loop."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Objective:
    """A loss to minimise and, for people, its terms without gradient; all scalars.

    A module is an objective if it makes one of these from two batches of embeddings (n, D), row
    i of both from the same image, n rows of the global batch on this worker. The loop knows no
    more: the loss must be the global batch's and the same on every worker, its gradient that of
    the one loss (`distributed.collectives`), and the names of the terms are its own affair. A loss
    without statistics of the batch fits, and so does one over pairs of predictions and targets.
    """

    loss: Tensor
    terms: dict[str, Tensor]


def weighted(on_diagonal: Tensor, off_diagonal: Tensor, lambda_: float) -> Objective:
    """`on_diagonal` + λ `off_diagonal`, the form of Eq. 1, with both terms."""
    return Objective(
        loss=on_diagonal + lambda_ * off_diagonal,
        terms={"on_diagonal": on_diagonal.detach(), "off_diagonal": off_diagonal.detach()},
    )
