"""LARS: momentum SGD whose step on each weight is proportional to the weight's norm."""

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any, cast, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

from bt_ray.optim.lars_update import Triple, Update, update_plainly, update_together
from bt_ray.optim.momenta import order_momenta

KernelUpdate = Callable[[Sequence[Triple], Update], None]


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

    _step_supports_amp_scaling = True

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
        self.register_load_state_dict_post_hook(order_momenta)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Makes one step, unless a GradScaler found infinities; nothing waits for the device.

        A GradScaler sets `grad_scale` and `found_inf` for it, as for torch's fused optimizers
        (`_step_supports_amp_scaling`): the gradients are unscaled on the way, and with infinities
        neither weights nor momenta change.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        for group in self.param_groups:
            update = Update(
                rate=group["lr"],
                weight_decay=group["weight_decay"],
                momentum=group["momentum"],
                trust_coefficient=group["trust_coefficient"],
                adapt=group["adapt"],
                grad_scale=scale,
                found_inf=found_inf,
            )
            self._step_group([w for w in group["params"] if w.grad is not None], update)
        return loss

    def _step_group(self, weights: list[Tensor], update: Update) -> None:
        triples = [Triple(w, cast(Tensor, w.grad), self._momentum(w)) for w in weights]
        if not update.adapt and weights and all(w.is_cuda for w in weights):
            update_together(triples, update)
            return
        by_kernels = []
        for triple in triples:
            if update.adapt and _fits_kernels(triple):
                by_kernels.append(_in_order(triple))
            else:
                update_plainly(triple, update)
        if by_kernels and (update_by_kernels := kernels(by_kernels[0].w.device)):
            update_by_kernels(by_kernels, update)

    def _momentum(self, weight: Tensor) -> Tensor:
        """In the order of the weight, if that is dense, and contiguous if not."""
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        return state["momentum"]  # type: ignore[no-any-return]


@cache
def kernels(device: torch.device) -> KernelUpdate | None:
    """`update_by_kernels` where it works: on a GPU with Triton and what that needs to compile."""
    if device.type != "cuda" or find_spec("triton") is None:
        return None
    from bt_ray.optim.lars_kernels import update_by_kernels, why_not

    if reason := why_not(device):
        warnings.warn(
            "LARS runs by torch's own operations, which take about twice the time, since Triton "
            f"cannot compile its kernels (it needs a C compiler and Python's headers): {reason}",
            stacklevel=2,
        )
        return None
    return update_by_kernels


def _fits_kernels(triple: Triple) -> bool:
    """Whether kernels can take the weight: float32, and dense, as the momentum always is."""
    w, _, m = triple
    return w.dtype == torch.float32 and _same_order(w, m) and kernels(w.device) is not None


def _in_order(triple: Triple) -> Triple:
    """With the gradient in the order of the weight, which costs a copy if it was in another."""
    w, g, m = triple
    return triple if _same_order(g, m) else Triple(w, torch.empty_like(m).copy_(g), m)


def _same_order(a: Tensor, b: Tensor) -> bool:
    """Whether both tensors of one shape hold their numbers at the same places in memory."""
    pairs = zip(a.shape, a.stride(), b.stride(), strict=True)
    return all(ours == theirs for length, ours, theirs in pairs if length > 1)
