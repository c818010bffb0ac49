"""Barlow Twins pretraining, with the objective that the settings name (paper, section 2)."""

import torch

from bt_ray.checkpoints.start import load_start
from bt_ray.config import Settings
from bt_ray.data.stream.batches import Batch
from bt_ray.data.stream.plan import worker_rows
from bt_ray.distributed.collectives import world_size
from bt_ray.methods.learner import Embedded, Outcome
from bt_ray.model.inputs import to_input
from bt_ray.model.recompute import recompute_blocks
from bt_ray.model.twins import build_twins
from bt_ray.objective.build import build_objective
from bt_ray.optim.build import build_optimizer
from bt_ray.optim.schedule import rate_factor
from bt_ray.precision import autocast, memory_format


class BarlowTwinsLearner:
    """Twins with weights drawn from the seed, their objective and optimizer.

    The representations are what `embed` makes of the views; projector, predictor and loss belong
    to the objective, in which the whole batch takes part.
    """

    rate_name = "weight_rate"
    probes_untrained = True

    def __init__(self, settings: Settings, device: torch.device, *, steps_per_epoch: int) -> None:
        self._settings, self._device = settings, device
        self.rate_setting = settings.optimizer.rate_setting
        self._steps_per_epoch = steps_per_epoch
        torch.manual_seed(settings.training.seed)
        self.module = build_twins(settings)
        if world_size() > 1:
            self.module.globalize_batch_norm()
        if settings.training.activation_checkpointing:
            recompute_blocks(self.module.encoder)
        layout = memory_format(settings.training)
        self.module.to(device, memory_format=layout)  # type: ignore[call-overload]
        self.optimizer = build_optimizer(settings, self.module)
        self._loss_of = build_objective(settings.objective)
        self._rows = worker_rows(settings.data.global_batch, world_size())

    def begin(self) -> None:
        """Takes the weights that `model.start_from` names, if it names any.

        Raises: CheckpointError if they cannot be read or do not fit.
        """
        if self._settings.model.start_from is not None:
            load_start(self.module, self._settings)

    def embed(self, batch: Batch) -> Embedded:
        """Representations (n, F) of each of the two views."""
        view_a, view_b = (to_input(view, self._settings) for view in batch.views)
        with self._autocast():
            return self.module.represent(view_a, view_b)

    def objective(self, embedded: Embedded) -> Outcome:
        """The loss of the embeddings, computed outside autocast, and its terms."""
        representations_a, representations_b = embedded
        with self._autocast():
            z_a, z_b = self.module.project(representations_a, representations_b)
        result = self._loss_of(z_a, z_b, self._rows)
        return Outcome(result.loss, result.terms, (z_a, z_b))

    def rate_factor(self, step: int) -> float:
        """A linear warm-up, then a cosine (paper, section 2.2)."""
        schedule = self._settings.schedule
        return rate_factor(
            step,
            total_steps=schedule.epochs * self._steps_per_epoch,
            warmup_steps=round(schedule.warmup_epochs * self._steps_per_epoch),
            final_factor=schedule.final_factor,
        )

    def after_step(self, step: int) -> None:
        """Does nothing: the twins share their weights."""

    def _autocast(self) -> torch.autocast:
        return autocast(self._settings.training, self._device)
