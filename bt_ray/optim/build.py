"""From the settings to an optimizer, and its learning rates over time."""

from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer

from bt_ray.config import Settings
from bt_ray.optim.lars import LARS
from bt_ray.optim.momenta import order_momenta

_TOKENS = frozenset((
    "pos_embed", "pos_embedding", "cls_token", "class_token", "dist_token", "reg_token",
    "mask_token", "cls_pos", "relative_position_bias_table", "relative_position_bias",
))  # fmt: skip
"""What timm and torchvision call positions and tokens that are learnt: tables, not weights."""


def build_optimizer(settings: Settings, module: nn.Module) -> Optimizer:
    """LARS or AdamW for the parameters of `module` that have gradients, in two groups.

    The first has weights: matrices and kernels. The second has all that LARS neither adapts nor
    decays, and AdamW does not decay: biases and scales (parameters of one dimension), positions,
    class tokens, and what a module names in a `no_weight_decay()` of its own, as timm's do. Rates
    are scaled by batch / 256; LARS gives the second group `optimizer.true_bias_rate`, AdamW the
    same as the first. Each group keeps its highest rate as `peak_lr`, for `set_rates`.
    """
    chosen, excluded = settings.optimizer, set(_excluded(module))
    weights: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        (others if name in excluded else weights).append(parameter)
    is_lars = chosen.kind == "lars"
    rates = (chosen.weight_rate, chosen.true_bias_rate) if is_lars else (chosen.adamw_rate,) * 2
    groups = [
        {
            "params": parameters,
            "lr": rate * settings.rate_scale,
            "peak_lr": rate * settings.rate_scale,
        }
        for parameters, rate in zip((weights, others), rates, strict=True)
    ]
    if is_lars:
        return _build_lars(settings, groups)
    return _build_adamw(settings, groups)


def _build_lars(settings: Settings, groups: list[dict[str, Any]]) -> LARS:
    chosen = settings.optimizer
    for group, adapt in zip(groups, (True, False), strict=True):
        group["adapt"] = adapt
    return LARS(
        [group for group in groups if group["params"]],
        lr=chosen.weight_rate,
        weight_decay=chosen.true_weight_decay,
        momentum=chosen.momentum,
        trust_coefficient=chosen.trust_coefficient,
    )


def _build_adamw(settings: Settings, groups: list[dict[str, Any]]) -> AdamW:
    chosen = settings.optimizer
    groups[1]["weight_decay"] = 0.0
    groups = [group for group in groups if group["params"]]
    optimizer = AdamW(
        groups,
        lr=chosen.adamw_rate,
        betas=chosen.adamw_betas,
        weight_decay=chosen.adamw_weight_decay,
        fused=groups[0]["params"][0].is_cuda,
    )
    optimizer.register_load_state_dict_post_hook(order_momenta)
    return optimizer


def _excluded(module: nn.Module) -> Iterator[str]:
    """Names of the parameters that are neither adapted nor decayed."""
    named = {
        f"{prefix}.{name}" if prefix else name
        for prefix, part in module.named_modules()
        if callable(listed := getattr(part, "no_weight_decay", None))
        for name in listed()
    }
    for name, parameter in module.named_parameters():
        num_long = sum(length > 1 for length in parameter.shape)
        is_vector = parameter.dim() <= 1 or (num_long <= 1 and not name.endswith(".weight"))
        if is_vector or name in named or name.rpartition(".")[2] in _TOKENS:
            yield name


def set_rates(optimizer: Optimizer, factor: float) -> None:
    """Sets every group's learning rate to `factor` times its highest."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
