"""All that changes while a run goes on, and that a checkpoint keeps."""

from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import nn
from torch.optim import Optimizer

M = TypeVar("M", bound=nn.Module)


@dataclass
class TrainingState(Generic[M]):
    """Everything that changes while a run goes on; `step` steps are done."""

    module: M
    """What is trained; each of its children has a file of its own in a checkpoint."""
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    step: int = 0
    skipped_steps: int = 0
    """Steps that moved nothing since fp16 gradients overflowed."""
    replaced_images: int = 0
    """Those that could not be decoded, each time that they came up."""
    stream_digest: int = 0
    """Of all data that were trained on (`stream.digest`), as of the last checkpoint."""
    unsummed_digest: int = 0
    """Of the rows that this worker has trained on since."""

    def step_optimizer(self) -> None:
        """Moves the weights, unless fp16 gradients overflowed: that step is skipped and counted."""
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.skipped_steps += self.scaler.get_scale() < scale
        self.optimizer.zero_grad()
