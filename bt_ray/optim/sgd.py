"""Momentum SGD, torch's own."""

from typing import Any

import torch
from torch.optim import SGD

from bt_ray.optim.momenta import order_momenta


def build_sgd(
    groups: list[dict[str, Any]], *, lr: float, momentum: float, weight_decay: float, fused: bool
) -> SGD:
    """Momentum SGD of torch, whose momenta are there from the beginning.

    Args:
      groups: parameter groups as torch takes them.
      fused: by torch's fused step, which takes a GradScaler's numbers and does not wait to know
        whether the step is skipped. It leaves the memory of new momenta as it finds it if the
        very first step is skipped, as fp16's often is; hence zeros here.
    """
    optimizer = SGD(groups, lr=lr, momentum=momentum, weight_decay=weight_decay, fused=fused)
    if fused and momentum:
        for group in optimizer.param_groups:
            for weight in group["params"]:
                optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
    optimizer.register_load_state_dict_post_hook(order_momenta)
    return optimizer
