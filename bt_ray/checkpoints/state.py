"""All that changes while a run goes on, and that a checkpoint keeps."""

import math
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bt_ray.model.average import Average

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Best:
    """The probe with the best score so far: after how many steps it was made, and the score."""

    step: int
    score: float


@dataclass
class TrainingState(Generic[M]):
    """Everything that changes while a run goes on; `step` steps are done."""

    module: M
    """What is trained; each of its children has a file of its own in a checkpoint."""
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    step: int = 0
    replaced_images: int = 0
    """Those that could not be decoded, each time that they came up."""
    stream_digest: int = 0
    """Of all data that were trained on (`stream.digest`), as of the last checkpoint."""
    unsummed_digest: int = 0
    """Of the rows that this worker has trained on since."""
    average: Average | None = None
    """Of the module's encoder, if the run has one."""
    best: Best | None = None
    """None before the first score."""
    probes_since_best: int = 0
    """Scores in a row that were not better."""

    _skipped: int | Tensor = field(default=0, init=False, repr=False)

    @property
    def skipped_steps(self) -> int:
        """Steps that moved nothing since fp16 gradients overflowed; waits for the device."""
        return int(self._skipped)

    @skipped_steps.setter
    def skipped_steps(self, number: int) -> None:
        self._skipped = number

    def step_optimizer(self) -> None:
        """Moves the weights, unless fp16 gradients overflowed: that step is skipped and counted.

        Nothing waits for the device if the optimizer takes the scaler's numbers (LARS and torch's
        fused ones do). A skipped step is one after which the loss scale fell.
        """
        if self.scaler.is_enabled():
            one = self.optimizer.param_groups[0]["params"][0].new_ones(())
            scale = self.scaler.scale(one)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            skipped = self.scaler.scale(one) < scale
            self._skipped = self._skipped + skipped
            self._update_average(skipped)
        else:
            self.optimizer.step()
            self._update_average(None)
        self.optimizer.zero_grad()

    def _update_average(self, skipped: Tensor | None) -> None:
        if self.average is not None:
            moved = None if skipped is None else ~skipped
            self.average.update(self.module.get_submodule("encoder"), moved)

    def take_score(self, score: float, *, is_better: bool) -> None:
        """Notes the score that was taken after the steps of now."""
        if is_better:
            self.best, self.probes_since_best = Best(self.step, score), 0
        else:
            self.probes_since_best += 1

    def is_better(self, score: float) -> bool:
        """Whether a score is finite, and above all before it."""
        return math.isfinite(score) and (self.best is None or score > self.best.score)
