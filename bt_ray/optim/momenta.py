"""How an optimizer's state lies in memory."""

import torch
from torch import Tensor
from torch.optim import Optimizer


def order_momenta(optimizer: Optimizer) -> None:
    """Lays tensors of the state out as their weights are, which checkpoints do not keep.

    A hook for after `load_state_dict`: kernels take weight, gradient and momentum in one order.
    """
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            is_like = isinstance(value, Tensor) and value.shape == weight.shape
            if is_like and value.stride() != weight.stride():
                state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)
