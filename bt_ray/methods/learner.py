"""What the training loop knows of the thing that it trains."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from bt_ray.data.stream.batches import Batch

Embedded = tuple[Tensor, ...]
"""What a part of a batch contributes: tensors with one row an image, so that those of several
parts can be joined."""


@dataclass(frozen=True)
class Outcome:
    """What one step came to.

    `loss`: scalar, of the global batch and so the same on every worker; its gradient is that of
    the one loss (`distributed.collectives`). `terms`: scalars without gradient, logged as
    `train/NAME`. `outputs`: tensors of this worker that are watched for values that are not finite.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    outputs: tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class Probing:
    """What a look at a module found, the same on every worker.

    `measures`: by metric name. `arrays`: float32, by name, what pictures are drawn from.
    """

    measures: dict[str, float]
    arrays: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


class Learner(Protocol):
    """A module with all that it takes to train it: one for each method and each evaluation.

    A step has two halves. `embed` makes of a part of a batch what the objective needs of it, each
    image by itself (but for batch norm), perhaps twice: without a graph and with one
    (`methods.step`). `objective` takes the rows of the whole batch and makes the loss. What a
    checkpoint keeps of a learner is its `module` and its `optimizer`: whatever else must survive a
    restart is a child of the module. The moving average of the weights of its `encoder`, a child
    of that name, the loop has itself (`checkpoints.state`).
    """

    @property
    def module(self) -> nn.Module:
        """What is trained, on the device, in training mode; a checkpoint has a file a child."""

    @property
    def optimizer(self) -> Optimizer:
        """Over the module's parameters, in groups that keep their highest rate as `peak_lr`."""

    @property
    def rate_name(self) -> str:
        """Name of the first group's learning rate in the measures, such as `weight_rate`."""

    @property
    def rate_setting(self) -> str:
        """The setting to lower if the loss diverges, such as `optimizer.weight_rate`."""

    @property
    def probes_untrained(self) -> bool:
        """Whether the probe also looks at the module before the first step."""

    def begin(self) -> None:
        """Called once, before the first step of a run that is not resumed."""

    def embed(self, batch: Batch) -> Embedded:
        """What the objective needs of these images, (n, …) each."""

    def objective(self, embedded: Embedded) -> Outcome:
        """The step's loss, of what `embed` made of all of this worker's images."""

    def rate_factor(self, step: int) -> float:
        """Share of the groups' highest rates in `step`, counted from 0."""

    def after_step(self, step: int) -> None:
        """Called when `step` steps are done and the weights have moved."""


class WholeStep(nn.Module):
    """A learner's two halves as one module, which `data_parallel` takes."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.module = learner.module
        self._learner = learner

    def forward(self, batch: Batch) -> Outcome:
        """The outcome of this worker's whole batch."""
        return self._learner.objective(self._learner.embed(batch))
