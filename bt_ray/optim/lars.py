"""LARS: momentum SGD whose step on each weight is proportional to the weight's norm."""

from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bt_ray.config import Settings


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling.

    For an adapted parameter w with gradient g: d = g + β·w, then d ← d · η·‖w‖/‖d‖ (unless
    a norm is 0), m ← μ·m + d, w ← w − γ·m. A parameter group with `adapt=False` skips the
    scaling and the decay β: plain momentum SGD.

    Args:
      groups: parameter groups as torch takes them, each with `lr` and `adapt`.
      lr: γ.
      weight_decay: β.
      momentum: μ.
      trust_coefficient: η.
    Source: You et al. 2017, in the form of the paper's code, which takes the norm of g + β·w
      where the publication has ‖g‖ + β·‖w‖.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        lr: float,
        weight_decay: float,
        momentum: float,
        trust_coefficient: float,
    ) -> None:
        super().__init__(
            groups,
            {
                "lr": lr,
                "weight_decay": weight_decay,
                "momentum": momentum,
                "trust_coefficient": trust_coefficient,
                "adapt": True,
            },
        )

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Makes one step.

        On a GPU the parameters of a group are updated together, which launches few kernels. On a
        CPU they are updated one after the other, while each one's values are still in the cache.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [w for w in group["params"] if w.grad is not None]
            on_cpu = all(w.device.type == "cpu" for w in weights)
            for together in [[w] for w in weights] if on_cpu else [weights]:
                self._step_group(group, together)
        return loss

    def _step_group(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        updates = [w.grad for w in weights if w.grad is not None]
        if group["adapt"]:
            updates = list(torch._foreach_add(updates, weights, alpha=group["weight_decay"]))
            torch._foreach_mul_(updates, self._trust_ratios(group, weights, updates))
        momenta = [self._momentum(w) for w in weights]
        torch._foreach_mul_(momenta, group["momentum"])
        torch._foreach_add_(momenta, updates)
        torch._foreach_add_(weights, momenta, alpha=-group["lr"])

    def _trust_ratios(
        self, group: dict[str, Any], weights: list[Tensor], updates: list[Tensor]
    ) -> list[Tensor]:
        of_weights = torch.stack(torch._foreach_norm(weights))
        of_updates = torch.stack(torch._foreach_norm(updates))
        ratios = group["trust_coefficient"] * of_weights / of_updates
        usable = (of_weights > 0) & (of_updates > 0)
        return list(torch.where(usable, ratios, torch.ones_like(ratios)).unbind())

    def _momentum(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        return state["momentum"]  # type: ignore[no-any-return]


def build_optimizer(settings: Settings, module: nn.Module) -> LARS:
    """LARS for the parameters of `module`, in two groups.

    Matrices and kernels are adapted and decayed. Vectors, which are the biases and the batch-norm
    parameters, are neither; their rate is `optimizer.true_bias_rate`. Rates are scaled by
    batch / 256. Each group keeps its highest rate as `peak_lr`, for `set_rates`.
    """
    chosen = settings.optimizer
    parameters = list(module.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "lr": chosen.weight_rate, "adapt": True},
        {
            "params": [p for p in parameters if p.dim() <= 1],
            "lr": chosen.true_bias_rate,
            "adapt": False,
        },
    ]
    for group in groups:
        group["peak_lr"] = group["lr"] = group["lr"] * settings.rate_scale  # type: ignore[operator]
    return LARS(
        [group for group in groups if group["params"]],
        lr=chosen.weight_rate,
        weight_decay=chosen.true_weight_decay,
        momentum=chosen.momentum,
        trust_coefficient=chosen.trust_coefficient,
    )


def set_rates(optimizer: Optimizer, factor: float) -> None:
    """Sets every group's learning rate to `factor` times its highest."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
