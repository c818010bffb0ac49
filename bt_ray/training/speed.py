"""How fast training steps are on a device: some small ones, timed."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch

from bt_ray.config import Settings
from bt_ray.data.batches import to_batch
from bt_ray.data.decode import Columns
from bt_ray.model.twins import Twins, build_twins
from bt_ray.objective.barlow import BarlowTwins
from bt_ray.optim.lars import build_optimizer
from bt_ray.precision import autocast, memory_format
from bt_ray.training.loop import to_input

_FEWEST_ROWS = 2
_WIDEST_ON_CPU = 2048


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What timing some steps showed.

    `step_s`: a worker's step of `rows` images, exact if `timed_rows` equals them and
    extrapolated otherwise; `seconds`: how long the timing took.
    """

    step_s: float
    rows: int
    timed_rows: int
    seconds: float

    @property
    def images_per_s(self) -> float:
        """Of one worker that has the device for itself."""
        return self.rows / self.step_s


def measure_speed(
    settings: Settings, device: torch.device, *, threads: int, budget_s: float
) -> Speed:
    """Times forward, backward and optimizer step of growing batches for about `budget_s`.

    The batches double until the time is spent or a worker's whole part of a batch is reached.
    A larger step is extrapolated from the smallest and the largest one timed: what a step
    costs whatever its size (the optimizer, the D×D correlation), and what each image adds.

    Args:
      threads: of a CPU's arithmetic.
    """
    began = time.perf_counter()
    rows = settings.data.global_batch // max(1, settings.scaling.workers)
    settings, head_scale = _narrowed(settings, device)
    with _threads(threads):
        twins = _nonsense_twins(settings, device)
        optimizer = build_optimizer(settings, twins)
        size, most, timed = _FEWEST_ROWS, max(_FEWEST_ROWS, rows), dict[int, float]()
        body_s, head_s = _time_step(settings, twins, optimizer, size)  # warms up, imports
        warm = time.perf_counter()
        if body_s + head_s > 2 * budget_s:  # it has to do
            timed[size] = body_s + head_scale * head_s
        while not timed or (
            most not in timed and 2 * (body_s + head_s) < budget_s - (time.perf_counter() - warm)
        ):
            size = min(2 * size, most) if timed else size
            body_s, head_s = _time_step(settings, twins, optimizer, size)
            timed[size] = body_s + head_scale * head_s
    return Speed(
        step_s=extrapolate(timed, rows),
        rows=rows,
        timed_rows=max(timed),
        seconds=time.perf_counter() - began,
    )


def extrapolate(timed: dict[int, float], rows: int) -> float:
    """Seconds of a step of `rows` images, on the line through the smallest and largest timed.

    The line never falls, nor rises faster than if a step's time were its images' alone.
    """
    least, most = min(timed), max(timed)
    per_row = timed[most] / most
    if most > least:
        per_row = min(per_row, max(0.0, (timed[most] - timed[least]) / (most - least)))
    return timed[most] + (rows - most) * per_row


def _nonsense_twins(settings: Settings, device: torch.device) -> Twins:
    """Twins with weights of no meaning: drawing proper ones may take longer than the timing."""
    with torch.device("meta"):
        twins = build_twins(settings.model)
    twins.to_empty(device=device)
    with torch.no_grad():
        for parameter in twins.parameters():
            parameter.uniform_(-0.05, 0.05)
        for buffer in twins.buffers():
            buffer.zero_()
    return twins.to(memory_format=memory_format(settings.training))


def _narrowed(settings: Settings, device: torch.device) -> tuple[Settings, float]:
    """The settings with a projector that a CPU can time, and what its time is to be scaled by.

    Nearly all of the work on projector, D×D correlation and optimizer grows with the square
    of the widths.
    """
    widths = settings.model.projector_widths
    scale = max(widths) / _WIDEST_ON_CPU
    if device.type != "cpu" or scale <= 1:
        return settings, 1.0
    narrow = tuple(max(1, round(width / scale)) for width in widths)
    return replace(settings, model=replace(settings.model, projector_widths=narrow)), scale**2


def _time_step(
    settings: Settings, twins: Twins, optimizer: torch.optim.Optimizer, rows: int
) -> tuple[float, float]:
    """Seconds of one step of the loop, from two views on the CPU to new weights.

    Returns: those of views and encoder; those of projector, objective and optimizer.
    """
    device = next(twins.parameters()).device
    columns = _columns(rows, settings.views.image_px)
    marks = [_now(device)]
    batch = to_batch(columns, settings, 1, device)
    with autocast(settings.training, device):
        features = [twins.encoder(to_input(view, settings.training)) for view in batch.views]
    marks.append(_now(device))
    cut = [each.detach().requires_grad_() for each in features]
    with autocast(settings.training, device):
        z_a, z_b = (twins.projector(each) for each in cut)
    BarlowTwins(settings.objective.redundancy_weight)(z_a, z_b).loss.backward()
    marks.append(_now(device))
    torch.autograd.backward(features, [each.grad for each in cut])
    marks.append(_now(device))
    optimizer.step()
    optimizer.zero_grad()
    marks.append(_now(device))
    encoding, projecting, encoding_back, stepping = (b - a for a, b in pairwise(marks))
    return encoding + encoding_back, projecting + stepping


def _columns(rows: int, px: int) -> Columns:
    """What the loader would hand over: noise."""
    numbers, sides = np.arange(rows), np.full(rows, px)
    levels = np.random.default_rng(0).integers(0, 256, (2, rows, 3, px, px), dtype=np.uint8)
    return {
        "row": numbers, "slot": numbers, "step": np.zeros_like(numbers),
        "width": sides, "height": sides, "view_a": levels[0], "view_b": levels[1],
    }  # fmt: skip


def _now(device: torch.device) -> float:
    """Seconds on a clock, when the device has done all it was told to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)
