"""What all methods that pretrain an encoder have in common."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from bt_ray.checkpoints.start import load_start
from bt_ray.config import Settings
from bt_ray.data.stream.batches import Batch
from bt_ray.data.stream.plan import worker_rows
from bt_ray.distributed.collectives import gather_for_replicas, gather_rows, rank, world_size
from bt_ray.methods.learner import Embedded, Outcome
from bt_ray.model.inputs import to_input
from bt_ray.model.network import Network
from bt_ray.model.recompute import recompute_blocks
from bt_ray.model.twins import build_network
from bt_ray.optim.build import build_optimizer
from bt_ray.optim.schedule import rate_factor
from bt_ray.precision import autocast, memory_format


class PretrainingLearner(ABC):
    """A network with weights drawn from the seed, and its optimizer; a method adds its loss.

    Losses of most methods are functions of all N rows of the global batch. What has parameters is
    applied to a worker's own rows; then the rows of all workers are gathered, which are short, and
    every worker computes the same loss of them (`gathered`). So the loss, its gradient and whatever
    state follows from the rows are the same for any number of workers.

    Args:
      num_images: of the training set; `Batch.samples` are below it.
    """

    rate_name = "weight_rate"
    probes_untrained = True
    step = 0
    """That of the batch that was embedded last, counted from 0."""

    def __init__(
        self, settings: Settings, device: torch.device, *, steps_per_epoch: int, num_images: int
    ) -> None:
        self.settings, self.device = settings, device
        self.steps_per_epoch, self.num_images = steps_per_epoch, num_images
        self.total_steps = settings.schedule.total_steps(steps_per_epoch)
        self.rate_setting = settings.optimizer.rate_setting
        self.rows = worker_rows(settings.data.global_batch, world_size())
        """Every worker's rows of a batch."""
        torch.manual_seed(settings.training.seed)
        self.module = self.build_network()
        if world_size() > 1:
            self.module.globalize_batch_norm()
        if settings.training.activation_checkpointing:
            recompute_blocks(self.module.encoder)
        layout = memory_format(settings.training)
        self.module.to(device, memory_format=layout)  # type: ignore[call-overload]
        self.optimizer = build_optimizer(settings, self.module)

    def build_network(self) -> Network:
        """The network with new weights, drawn by torch's global generator, on the CPU.

        Encoder, projector and, if the settings have one, predictor.
        """
        return build_network(self.settings)

    def embed(self, batch: Batch) -> Embedded:
        """What the objective needs of these images: the representations (n, F) of each view."""
        self.step = batch.step
        with self.autocast():
            return self.module.represent(*self.inputs(batch.views))

    @abstractmethod
    def objective(self, embedded: Embedded) -> Outcome:
        """The step's loss, of what `embed` made of all of this worker's images."""

    def begin(self) -> None:
        """Takes the weights that the run keeps as its start, if `model.start_from` named any.

        Raises: CheckpointError if they cannot be read or do not fit.
        """
        if self.settings.model.start_from is not None:
            load_start(self.module, self.settings)

    def rate_factor(self, step: int) -> float:
        """A linear warm-up, then a cosine (paper, section 2.2)."""
        schedule = self.settings.schedule
        return rate_factor(
            step,
            total_steps=self.total_steps,
            warmup_steps=round(schedule.warmup_epochs * self.steps_per_epoch),
            final_factor=schedule.final_factor,
        )

    def is_logged(self, step: int) -> bool:
        """Whether measures are logged after `step` steps, for which the loop waits anyway."""
        every = self.settings.training.log_every_steps
        return step % every == 0 or step == self.total_steps

    def after_step(self, step: int) -> None:  # noqa: B027 (most methods have nothing to do)
        """Does nothing, where no state follows the weights."""

    def inputs(self, views: Sequence[Tensor]) -> list[Tensor]:
        """Views as the encoder takes them."""
        return [to_input(view, self.settings) for view in views]

    def samples(self, batch: Batch) -> Tensor:
        """The rows of the data set that a batch's images are, int64 (n,), on the device."""
        samples = torch.tensor(batch.samples)  # a copy: an array of Arrow's cannot be written to
        if self.device.type == "cuda":
            samples = samples.pin_memory()  # from there a copy need not be waited for
        return samples.to(self.device, non_blocking=True)

    def gathered(self, x: Tensor) -> Tensor:
        """The rows of all workers, in the order of the global batch, float32 or better.

        For a loss that every worker computes alike; gradients come back to this worker's rows.
        """
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return gather_for_replicas(wide, self.rows)

    def gathered_rows(self, x: Tensor) -> Tensor:
        """The same of what has no gradient, in its own type."""
        return gather_rows(x.detach(), self.rows)

    @property
    def own_rows(self) -> slice:
        """Where this worker's rows are among those of the global batch."""
        first = sum(self.rows[: rank()])
        return slice(first, first + self.rows[rank()])

    def generator(self, step: int, purpose: int = 0) -> torch.Generator:
        """Random numbers of a step, the same on every worker, drawn on the CPU.

        Args:
          purpose: tells apart what is drawn in the same step.
        """
        seed = (self.settings.training.seed * 1_000_003 + step) * 101 + purpose
        return torch.Generator().manual_seed(seed)

    def autocast(self) -> torch.autocast:
        """The settings' arithmetic on the device."""
        return autocast(self.settings.training, self.device)


@torch.no_grad()
def spread(embeddings: Tensor) -> Tensor:
    """How widely embeddings (N, D) spread: 1 if even in all directions, 0 if all are one point.

    The standard deviation of each dimension of the normalised embeddings, times √D, on average.

    Source: Chen and He 2021, section 4.1, which watches collapse by it.
    """
    unit = normalize(embeddings.float(), dim=1)
    deviation = unit.std(dim=0, correction=0).mean()
    return deviation * math.sqrt(unit.shape[1])
