"""Speed of our convolutions against torch's own: `python -m benchmarks.convolutions`.

The layers of ResNet-18 with the CIFAR stem, forward and backward, in bf16 on one thread; those
too that `model.fast_convolutions` leaves as they are, since they gain nothing.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

import torch
import tyro
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from benchmarks.training import describe_machine
from bt_ray.allocator import keep_freed_memory
from bt_ray.errors import SettingsError
from bt_ray.model import winograd
from bt_ray.model.strided import convolve_patches, convolve_subsample
from pipelines.terminal import console, finish, guarded


class Layer(NamedTuple):
    """A convolution whose inputs are squares."""

    in_channels: int
    out_channels: int
    px: int
    way: Callable[[Tensor, Tensor], Tensor]
    """Ours."""
    kernel_size: int = 3
    stride: int = 1


_LAYERS = {
    "layer1": Layer(64, 64, 32, winograd.convolve),
    "layer2": Layer(128, 128, 16, winograd.convolve),
    "layer3": Layer(256, 256, 8, winograd.convolve),
    "layer4": Layer(512, 512, 4, winograd.convolve),
    "layer2, stride 2": Layer(64, 128, 32, convolve_patches, stride=2),
    "layer3, stride 2": Layer(128, 256, 16, convolve_patches, stride=2),
    "layer4, stride 2": Layer(256, 512, 8, convolve_patches, stride=2),
    "layer2, 1×1": Layer(64, 128, 32, convolve_subsample, kernel_size=1, stride=2),
    "layer3, 1×1": Layer(128, 256, 16, convolve_subsample, kernel_size=1, stride=2),
    "layer4, 1×1": Layer(256, 512, 8, convolve_subsample, kernel_size=1, stride=2),
}


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
    milliseconds = {name: measure(order, layer) for name, layer in _LAYERS.items()}
    ratios = {name: of["direct"] / of["ours"] for name, of in milliseconds.items()}
    table = Table("", "direct, ms", "ours, ms", "ratio", title="Convolutions in bf16")
    for name, of in milliseconds.items():
        table.add_row(name, f"{of['direct']:.1f}", f"{of['ours']:.1f}", f"{ratios[name]:.2f}")
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


def measure(order: Benchmark, layer: Layer) -> dict[str, float]:
    """Milliseconds of a layer's forward and backward, by way."""
    px, size, stride = layer.px, layer.kernel_size, layer.stride
    x = _draw(order.images, layer.in_channels, px, px).bfloat16()
    grad = _draw(order.images, layer.out_channels, px // stride, px // stride).bfloat16()
    weight = _draw(layer.out_channels, layer.in_channels, size, size)
    ways: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "direct": lambda x, weight: functional.conv2d(
            x, weight.bfloat16(), stride=stride, padding=size // 2
        ),
        "ours": layer.way,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(1 + order.repeats):
        for name, way in ways.items():
            seconds[name].append(_seconds(way, x, weight, grad))
    return {name: 1e3 * median(values[1:]) for name, values in seconds.items()}


def _draw(*shape: int) -> Tensor:
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


def _seconds(
    way: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor, grad: Tensor
) -> float:
    leaves = x.detach().requires_grad_(), weight.detach().requires_grad_()
    began = time.perf_counter()
    way(*leaves).backward(grad)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
