"""Steps of any method in float64, on real images, by one worker or several."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

import torch
from torch import Tensor

from bt_ray.config import Method, Settings, override
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.batches import Batch, local_batches
from bt_ray.method_presets import fit_to_data, with_method
from bt_ray.methods import pretraining
from bt_ray.methods.build import build_learner
from bt_ray.methods.pretraining import PretrainingLearner
from bt_ray.methods.step import build_step
from bt_ray.model.inputs import to_input
from bt_ray.optim.build import set_rates

CPU = torch.device("cpu")
BATCH = 48
"""Rows of the global batch: twelve for each of four workers."""
SMALL = {
    "data.global_batch": BATCH,
    "objective.moco_v2.norm_rows": 4,
    "objective.moco_v2.queue_rows": 2 * BATCH,
    "objective.swav.queue_rows": BATCH,
    "objective.swav.queue_from_epoch": 0,
    "objective.swav.frozen_epochs": 0.0,
    "objective.wmse.rows": 24,
    "objective.nat.epochs_between": 1,
}
"""Changes that make each method's own mechanisms work within few steps."""
WIDTHS = (16, 12)


def settings_of(method: Method, small_settings: Settings) -> Settings:
    """Settings of a method for the 360 digits of the tests' shards."""
    small = override(small_settings, {**SMALL, "model.projector_widths": WIDTHS})
    settings = with_method(small, method)
    num_images = ShardSet.open(settings.data.train).manifest.num_rows
    return fit_to_data(settings, num_images)[0]


@contextmanager
def in_float64() -> Iterator[None]:
    """A context in which views become encoders' inputs in float64."""
    with patch.object(pretraining, "to_input", lambda view, s: to_input(view, s).double()):
        yield


def build(settings: Settings, *, steps_per_epoch: int = 2) -> PretrainingLearner:
    """The learner of the settings, with float64 weights."""
    shards = ShardSet.open(settings.data.train)
    learner = build_learner(
        settings, CPU, steps_per_epoch=steps_per_epoch, num_images=shards.manifest.num_rows
    )
    learner.module.double()
    return learner


def first_batch(settings: Settings) -> Batch:
    """The first batch of the settings' run, for one worker."""
    shards = ShardSet.open(settings.data.train)
    return next(iter(local_batches(settings, shards, start=0, stop=1, device=CPU)))


def take_steps(
    rank: int, world_size: int, settings: Settings, num_steps: int
) -> tuple[list[Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Losses, the last step's gradients by name, and the network's state after the steps.

    Two steps are an epoch, whose images come again in the next one, so that what a method does
    between epochs is done and matters.
    """
    shards = ShardSet.open(settings.data.train)
    epoch = list(
        local_batches(
            settings, shards, start=0, stop=2, device=CPU, rank=rank, world_size=world_size
        )
    )
    losses: list[Tensor] = []
    gradients: dict[str, Tensor] = {}
    with in_float64():
        learner = build(settings)
        step = build_step(learner, settings)
        learner.begin()
        for number in range(num_steps):
            batch = replace(epoch[number % 2], step=number)
            set_rates(learner.optimizer, learner.rate_factor(number + 1))
            torch.manual_seed(1000 * number + rank)
            outcome = step.forward(batch)
            step.backward(outcome.loss)
            losses.append(outcome.loss.detach())
            gradients = {
                name: parameter.grad.clone()
                for name, parameter in learner.module.named_parameters()
                if parameter.grad is not None
            }
            learner.optimizer.step()
            learner.optimizer.zero_grad()
            learner.after_step(number + 1)
    state = {name: value.clone() for name, value in learner.module.state_dict().items()}
    return losses, gradients, state
