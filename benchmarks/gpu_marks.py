"""Where a step's time goes, by CUDA's events on a GPU and by the clock elsewhere."""

import time
from itertools import pairwise
from statistics import median

import torch
from torch import Tensor

_STEPS_AHEAD = 4
"""Steps that the host may be ahead of the GPU: enough for it never to wait, few enough to end in
time."""


class Marks:
    """Marks of a step's parts, each at the part's end."""

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._steps: list[list[tuple[str, float | torch.cuda.Event]]] = []

    def begin(self) -> None:
        """A step begins; that of some steps ago has ended."""
        self._steps.append([("", self._now())])
        if self._is_cuda and len(self._steps) > _STEPS_AHEAD:
            _, last = self._steps[-1 - _STEPS_AHEAD][-1]
            assert not isinstance(last, float)
            last.synchronize()

    def mark(self, part: str) -> None:
        """What was done since the last mark belongs to `part`."""
        self._steps[-1].append((part, self._now()))

    def mark_gradient(self, part: str, *outputs: Tensor) -> None:
        """So does the backward pass, until one of these tensors has its gradient."""
        is_due = True

        def first(gradient: Tensor) -> None:
            nonlocal is_due
            if is_due:
                is_due = False
                self.mark(part)

        for output in outputs:
            if output.requires_grad:
                output.register_hook(first)

    def seconds(self) -> dict[str, float]:
        """Median seconds of a step by part; waits for the GPU."""
        if self._is_cuda:
            torch.cuda.synchronize()
        of_steps: dict[str, list[float]] = {}
        for number, step in enumerate(self._steps):
            for (_, before), (part, after) in pairwise(step):
                spent = of_steps.setdefault(part, [0.0] * len(self._steps))
                spent[number] += _between(before, after)
        return {part: median(spent) for part, spent in of_steps.items()}

    def _now(self) -> float | torch.cuda.Event:
        if not self._is_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def _between(before: float | torch.cuda.Event, after: float | torch.cuda.Event) -> float:
    if isinstance(before, float):
        assert isinstance(after, float)
        return after - before
    assert not isinstance(after, float)
    return float(before.elapsed_time(after)) / 1000
