"""Speed of our LARS against a plain loop over the parameters: `python -m benchmarks.lars`.

On the paper's model, ResNet-50 with a projector 8192-8192-8192, in float32.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
import tyro
from rich.table import Table
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.training import describe_machine
from bt_ray.errors import SettingsError
from bt_ray.model.twins import build_twins
from bt_ray.optim.build import build_optimizer
from bt_ray.optim.lars import kernels
from bt_ray.presets import preset
from pipelines.terminal import console, finish, guarded

_BYTES = 4
_LEAST_ACCESSES = 7
"""Reads and writes of each number: g and w for the norms; g, w, m again, then m and w back."""
_PLAIN_ACCESSES = 13
"""Without kernels: g + β·w 3, two norms 2, momentum 2 + 3, weights 3 (`update_plainly`)."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Seconds of one optimizer step, both ways in turn."""

    repeats: int = 7
    """Timed steps of each way."""
    json: bool = False
    """Print one line of JSON on stdout."""

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise SettingsError(f"repeats={self.repeats} must be at least 1.")


def main() -> None:
    """Parses the command line, lets both ways take turns, prints who was how fast."""
    order = guarded(lambda: tyro.cli(Benchmark, prog="python -m benchmarks.lars"))
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    settings = preset("imagenet_300")
    twins = build_twins(settings).to(device)
    for parameter in twins.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer = build_optimizer(settings, twins)
    ways: dict[str, Callable[[], object]] = {
        "bt_ray": lambda: optimizer.step(),
        "loop": lambda: loop_step(optimizer),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(order.repeats + 1):
        for name, step in ways.items():
            elapsed = _seconds(step, device)
            if turn > 0:  # the first turn makes the momenta
                seconds[name].append(elapsed)
    report(order, seconds, count(twins), device)


def loop_step(optimizer: Optimizer) -> None:
    """The same update, one parameter after the other; the momenta must be there."""
    with torch.no_grad():
        for group in optimizer.param_groups:
            for weight in group["params"]:
                _step_one(optimizer, group, weight)


def _step_one(optimizer: Optimizer, group: dict[str, Any], weight: Tensor) -> None:
    update = weight.grad
    if update is None:
        return
    if group["adapt"]:
        update = update.add(weight, alpha=group["weight_decay"])
        of_weight, of_update = weight.norm(), update.norm()
        ratio = group["trust_coefficient"] * of_weight / of_update
        usable = (of_weight > 0) & (of_update > 0)
        update.mul_(torch.where(usable, ratio, torch.ones_like(ratio)))
    momentum: Tensor = optimizer.state[weight]["momentum"]
    momentum.mul_(group["momentum"]).add_(update)
    weight.add_(momentum, alpha=-group["lr"])


def count(module: nn.Module) -> int:
    """Trained numbers."""
    return sum(parameter.numel() for parameter in module.parameters())


def _seconds(step: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def report(
    order: Benchmark, seconds: dict[str, list[float]], parameters: int, device: torch.device
) -> None:
    """A table for people, a line of JSON for programs."""
    typical = {name: median(values) for name, values in seconds.items()}
    accesses = _PLAIN_ACCESSES if kernels(device) is None else _LEAST_ACCESSES
    gigabytes = {
        "least": _LEAST_ACCESSES * _BYTES * parameters / 1e9,
        "bt_ray": accesses * _BYTES * parameters / 1e9,
    }
    table = Table("", "ms a step", title=f"LARS, {parameters:,} parameters on {device.type}")
    for name, value in typical.items():
        table.add_row(name, f"{1e3 * value:,.1f}")
    console.print(table)
    console.print(", ".join(f"{name} {moved:.1f} GB" for name, moved in gigabytes.items()))
    if order.json:
        finish(
            {
                "name": "lars",
                "ratio": round(typical["loop"] / typical["bt_ray"], 3),
                "milliseconds": {name: round(1e3 * value, 1) for name, value in typical.items()},
                "gigabytes_moved": {name: round(moved, 2) for name, moved in gigabytes.items()},
                "parameters": parameters,
                "device": str(device),
                "repeats": order.repeats,
            }
            | describe_machine()
        )


if __name__ == "__main__":
    main()
