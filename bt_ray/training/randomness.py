"""What random layers, such as dropout and stochastic depth, draw in a step."""

import numpy as np
import torch


def seed_step(seed: int, step: int, rank: int) -> None:
    """Sets torch's generators, of CPU and GPU, to what a worker draws from in a step.

    They are a function of these three alone, so that a run that is continued draws what an
    uninterrupted one would have drawn; workers draw different numbers.
    """
    state = np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0]))
