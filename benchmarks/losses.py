"""One way to compute the loss in a process of its own: each line on stdin asks for one step.

The answers are lines of JSON: seconds of a forward and backward pass, and the peak memory so far
beyond the embeddings. The process ends with exit code 3 where memory does not suffice. Linux only.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast, get_args

import torch
from torch import Tensor

from bt_ray.objective.barlow import barlow_twins_loss
from bt_ray.objective.forms import Form

PEER = "lightly"
OUT_OF_MEMORY = 3
_LAMBDA = 5e-3

Loss = Callable[[Tensor, Tensor], Tensor]


def main() -> None:
    """Answers until stdin ends; arguments: contender, N, D, threads, memory limit in GB."""
    name, *numbers = sys.argv[1:]
    num_samples, num_dimensions, threads, memory_gb = map(int, numbers)
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    loss = build_loss(name)
    run(loss, *embeddings(num_samples, 64))  # the first kernels
    z = embeddings(num_samples, num_dimensions)
    before = _forget_peak()
    resource.setrlimit(resource.RLIMIT_DATA, (before + memory_gb * 10**9,) * 2)
    answer({})
    for _ in sys.stdin:
        try:
            elapsed_s = run(loss, *z)
        except (RuntimeError, MemoryError) as error:
            if "memory" not in str(error):
                raise
            sys.exit(OUT_OF_MEMORY)
        peak = _memory_bytes("VmHWM") - before
        answer({"seconds": elapsed_s, "peak_bytes": peak})


def answer(told: dict[str, float]) -> None:
    """Writes a line; the first, without figures, says that all is ready."""
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


def build_loss(name: str) -> Loss:
    """The peer's loss, or ours in the form of that name."""
    if name == PEER:
        from lightly.loss import BarlowTwinsLoss

        return cast(Loss, BarlowTwinsLoss(lambda_param=_LAMBDA))
    if name not in get_args(Form):
        raise ValueError(f"There is no loss {name!r}.")
    form = cast(Form, name)
    return lambda z_a, z_b: barlow_twins_loss(z_a, z_b, _LAMBDA, form=form)


def embeddings(num_samples: int, num_dimensions: int) -> list[Tensor]:
    """Two float32 leaves (N, D) that agree in part."""
    shared = torch.randn(num_samples, num_dimensions)
    return [(shared + 0.5 * torch.randn_like(shared)).requires_grad_() for _ in "ab"]


def run(loss: Loss, z_a: Tensor, z_b: Tensor) -> float:
    """Seconds of one forward and backward pass."""
    z_a.grad = z_b.grad = None
    start = time.perf_counter()
    loss(z_a, z_b).backward()
    return time.perf_counter() - start


def _forget_peak() -> int:
    """The resident bytes of now, from which the kernel begins a new peak."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory_bytes("VmRSS")


def _memory_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


if __name__ == "__main__":
    main()
