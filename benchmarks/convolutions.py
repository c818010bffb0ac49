"""Speed of Winograd's convolutions against torch's own: `python -m benchmarks.convolutions`.

The 3×3 layers of ResNet-18 with the CIFAR stem, forward and backward, in bf16 on one thread.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
import tyro
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from benchmarks.training import describe_machine
from bt_ray.allocator import keep_freed_memory
from bt_ray.errors import SettingsError
from bt_ray.model.winograd import convolve
from pipelines.terminal import console, finish, guarded

_LAYERS = {"layer1": (64, 32), "layer2": (128, 16), "layer3": (256, 8), "layer4": (512, 4)}
"""Channels, and height and width."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Seconds of one convolution and its gradients, both ways in turn."""

    images: int = 256
    """Images that pass at once."""
    repeats: int = 15
    """Timed passes of each way."""
    json: bool = False
    """Print one line of JSON on stdout."""

    def __post_init__(self) -> None:
        for name in ("images", "repeats"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name}={getattr(self, name)} must be at least 1.")


def main() -> None:
    """Parses the command line, lets both ways take turns, prints who was how fast."""
    order = guarded(lambda: tyro.cli(Benchmark, prog="python -m benchmarks.convolutions"))
    keep_freed_memory()
    torch.set_num_threads(1)
    milliseconds = {name: measure(order, *size) for name, size in _LAYERS.items()}
    ratios = {name: of["direct"] / of["winograd"] for name, of in milliseconds.items()}
    table = Table("", "direct, ms", "Winograd, ms", "ratio", title="3×3 convolutions, in bf16")
    for name, of in milliseconds.items():
        table.add_row(name, f"{of['direct']:.1f}", f"{of['winograd']:.1f}", f"{ratios[name]:.2f}")
    console.print(table)
    if order.json:
        finish(
            {
                "name": "convolutions",
                "ratio": {name: round(ratio, 3) for name, ratio in ratios.items()},
                "milliseconds": {
                    name: {way: round(value, 1) for way, value in of.items()}
                    for name, of in milliseconds.items()
                },
                "images": order.images,
                "repeats": order.repeats,
            }
            | describe_machine()
        )


def measure(order: Benchmark, channels: int, px: int) -> dict[str, float]:
    """Milliseconds of a layer's forward and backward, by way."""
    x, grad = (
        torch.randn(order.images, channels, px, px)
        .bfloat16()
        .contiguous(memory_format=torch.channels_last)
        for _ in range(2)
    )
    weight = torch.randn(channels, channels, 3, 3).contiguous(memory_format=torch.channels_last)
    ways: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "direct": lambda x, weight: functional.conv2d(x, weight.bfloat16(), padding=1),
        "winograd": convolve,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(1 + order.repeats):
        for name, way in ways.items():
            seconds[name].append(_seconds(way, x, weight, grad))
    return {name: 1e3 * median(values[1:]) for name, values in seconds.items()}


def _seconds(
    way: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor, grad: Tensor
) -> float:
    leaves = x.detach().requires_grad_(), weight.detach().requires_grad_()
    began = time.perf_counter()
    way(*leaves).backward(grad)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
