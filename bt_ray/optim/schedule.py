"""The learning rate over a run: pretraining's changes every step, a classifier's every epoch."""

import math
from collections.abc import Sequence


def rate_factor(step: int, *, total_steps: int, warmup_steps: int, final_factor: float) -> float:
    """Share of the highest learning rate at `step`, counted from 0.

    It rises from 0 to 1 over `warmup_steps`, then falls along half a cosine to
    `final_factor` at the end. Source: Zbontar et al. 2021, section 2.2, and its code.
    """
    if step < warmup_steps:
        return step / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return final_factor + (1 - final_factor) * 0.5 * (1 + math.cos(math.pi * progress))


def cosine_by_epoch(epoch: int, epochs: int) -> float:
    """Share of the highest learning rate in `epoch`, counted from 0: half a cosine from 1 to 0.

    It is 1 in the first epoch and would be 0 in the one after the last.

    Source: the code of Zbontar et al. 2021, which sets the rate once an epoch.
    """
    return 0.5 * (1 + math.cos(math.pi * epoch / epochs))


def staircase(epoch: int, falls: Sequence[int]) -> float:
    """Share of the highest learning rate in `epoch`: a tenth of it from each of `falls` on."""
    return 0.1 ** sum(epoch >= fall for fall in falls)
