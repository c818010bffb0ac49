"""How fast training steps are on a device: some small ones, timed."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from bt_ray.config import Settings
from bt_ray.config.training import part_rows
from bt_ray.data.stream.batches import to_batch
from bt_ray.data.stream.decode import SMALL, Columns
from bt_ray.methods.barlow_twins import BarlowTwinsLearner
from bt_ray.methods.learner import WholeStep
from bt_ray.methods.step import Step, StepAtOnce, StepInParts

_FEWEST_ROWS, _GROWTH = 8, 4
WIDEST_ON_CPU = 4096
"""Widest projector whose steps a CPU can be asked to show within seconds."""


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

    The batches grow until the time is spent or a worker's whole part of a batch is reached. A
    larger step is extrapolated from the smallest and the largest one timed: what a step costs
    whatever its size (the optimizer, the D×D correlation), and what each image adds.

    A CPU is timed with one thread, and all of them are taken to be as fast: a second thread that
    has to wait for a busy core would slow down each operation of these few steps a hundredfold.

    Args:
      threads: of a CPU's arithmetic.
    """
    began = time.perf_counter()
    rows = math.ceil(settings.data.global_batch / max(1, settings.scaling.min_workers))
    with _threads(1):
        learner = BarlowTwinsLearner(settings, device, steps_per_epoch=1)
        size = min(_FEWEST_ROWS, rows)
        _time_step(settings, learner, device, size)  # the first one also loads kernels
        timed = {size: _best_step(settings, learner, device, size)}
        deadline = time.perf_counter() + budget_s
        while size < rows and time.perf_counter() + 2 * _GROWTH * timed[size] < deadline:
            size = min(_GROWTH * size, rows)
            timed[size] = _best_step(settings, learner, device, size)
    return Speed(
        step_s=extrapolate(timed, rows) / (threads if device.type == "cpu" else 1),
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


def _best_step(
    settings: Settings, learner: BarlowTwinsLearner, device: torch.device, rows: int
) -> float:
    """Seconds of the faster of two steps: what else the machine does counts less."""
    return min(_time_step(settings, learner, device, rows) for _ in range(2))


def _time_step(
    settings: Settings, learner: BarlowTwinsLearner, device: torch.device, rows: int
) -> float:
    """Seconds of one step of the loop, from views on the CPU to new weights."""
    columns = _columns(rows, settings)
    step: Step = StepAtOnce(WholeStep(learner))
    if _in_parts(settings):
        step = StepInParts(learner, part_rows(rows, settings.training.micro_batch), None)
    began = _now(device)
    batch = to_batch(columns, settings, 1, device)
    step.backward(step.forward(batch).loss)
    learner.optimizer.step()
    learner.optimizer.zero_grad()
    return _now(device) - began


def _in_parts(settings: Settings) -> bool:
    """Whether a step of the run computes each image twice."""
    rows = math.ceil(settings.data.global_batch / max(1, settings.scaling.min_workers))
    return len(part_rows(rows, settings.training.micro_batch)) > 1


def _columns(rows: int, settings: Settings) -> Columns:
    """What `make_views` would hand over: noise."""
    views, pixels = settings.views, settings.data.pixels
    px, small_px, random = views.image_px, views.small_px, np.random.default_rng(0)
    numbers, sides, above = np.arange(rows), np.full(rows, px), pixels.highest_level + 1
    shape = (2, rows, pixels.channels, px, px)
    levels = random.integers(0, above, shape, dtype=pixels.dtype)
    columns: Columns = {
        "row": numbers, "sample": numbers, "slot": numbers, "step": np.zeros_like(numbers),
        "digest": numbers.astype(np.uint64),
        "width": sides, "height": sides, "view_a": levels[0], "view_b": levels[1],
    }  # fmt: skip
    if views.small_count:
        smaller = (rows, views.small_count, pixels.channels, small_px, small_px)
        columns[SMALL] = random.integers(0, above, smaller, dtype=pixels.dtype)
    return columns


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
