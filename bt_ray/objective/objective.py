"""What the training loop needs of an objective: a loss and its named terms."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Objective:
    """A loss to minimise, and its terms, detached, which are recorded as metrics; all scalars.

    A module is an objective if it returns one of these for two batches of embeddings (n, D), and
    every worker's n. Row i of both is from the same image; n is per worker. Three rules hold:

    - the loss is that of the global batch, and the same on every worker;
    - its gradient is that of this one loss (see `distributed.collectives`);
    - it names its terms as it likes.

    A loss without statistics of the batch fits, and so does one over pairs of predictions and
    targets.
    """

    loss: Tensor
    terms: dict[str, Tensor]


def weighted(on_diagonal: Tensor, off_diagonal: Tensor, lambda_: float) -> Objective:
    """The objective `on_diagonal` + λ `off_diagonal` (Eq. 1); its terms are these two scalars."""
    return Objective(
        loss=on_diagonal + lambda_ * off_diagonal,
        terms={"on_diagonal": on_diagonal.detach(), "off_diagonal": off_diagonal.detach()},
    )
