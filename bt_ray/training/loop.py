"""The training loop. It knows neither Ray nor MLflow: batches come in, reports go out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bt_ray.checkpoints.checkpoint import restore_checkpoint
from bt_ray.checkpoints.state import TrainingState
from bt_ray.config import Settings
from bt_ray.data.stream.feed import Feed
from bt_ray.distributed.collectives import vote
from bt_ray.methods.learner import Learner, Outcome, Probing
from bt_ray.methods.step import build_step
from bt_ray.optim.build import set_rates
from bt_ray.precision import choose_algorithms, precision_on
from bt_ray.training.calendar import build_calendar
from bt_ray.training.checkpointer import Checkpointer
from bt_ray.training.context import Context, Measures
from bt_ray.training.gauges import read_gauges
from bt_ray.training.meter import Meter
from bt_ray.training.quarantine import Quarantine
from bt_ray.training.randomness import seed_step
from bt_ray.training.watch import FiniteWatch

Probe = Callable[[Any], Probing]


def train(
    learner: Learner,
    settings: Settings,
    *,
    steps_per_epoch: int,
    batches: Feed,
    context: Context,
    probe: Probe,
    resume: Path | None = None,
) -> bool:
    """Trains the learner's module, to the run's last step or until the run is asked to stop.

    Args:
      steps_per_epoch: of the plan that the batches follow.
      batches: this worker's batches, from the checkpoint's step (or 0) to the last.
      probe: measures the module during and after training.
      resume: verified checkpoint to continue from.
    Returns: whether it left after a checkpoint because a node will be taken away: the run shall
      go on elsewhere.
    Raises: NonFiniteLossError if the loss was not finite, when it is next reported or kept;
      RunFailedError if a checkpoint could not be written; UnreadableImagesError; CheckpointError.
    """
    calendar = build_calendar(settings, steps_per_epoch, context.device)
    state = begin(learner, settings, context.device, resume)
    if state.step == 0 and learner.probes_untrained:
        _probe(probe, state, context, keeps_arrays=True)
    step = build_step(learner, settings)
    meter = Meter(settings, batches, start_step=state.step)
    quarantine = Quarantine(settings, context)
    watch = FiniteWatch(context.device, learner.rate_setting)

    with Checkpointer(state, settings, context) as checkpointer:
        for batch in batches:
            set_rates(state.optimizer, learner.rate_factor(state.step))
            seed_step(settings.training.seed, state.step, context.rank)
            outcome = step.forward(batch)
            watch.look(state.step, outcome.loss, *outcome.outputs)
            step.backward(state.scaler.scale(outcome.loss))
            state.step_optimizer()
            state.step += 1
            state.unsummed_digest += batch.digest
            learner.after_step(state.step)
            quarantine.look(batch.replaced)
            checkpointer.look()

            stops = is_overdue = must_leave = False
            if calendar.is_due(state.step, calendar.votes):
                wishes = context.wants_stop(), context.must_leave(), checkpointer.is_overdue()
                stops, must_leave, is_overdue = vote(wishes, context.device)
                state.replaced_images += quarantine.check(state.step)
            leaves = stops or must_leave
            if calendar.is_due(state.step, calendar.logs) or leaves:
                watch.check()
                measures = _describe(outcome, state, learner.rate_name, steps_per_epoch)
                measures |= meter.read(state.step) | read_gauges(context.device)
                context.report(state.step, measures)
            if calendar.is_due(state.step, calendar.probes):
                with meter.paused():
                    _probe(probe, state, context, keeps_arrays=calendar.is_last(state.step))
            if calendar.is_due(state.step, calendar.checkpoints) or leaves or is_overdue:
                watch.check()
                with meter.paused():
                    checkpointer.keep()
            if leaves:
                return must_leave and not stops
    return False


def begin(
    learner: Learner, settings: Settings, device: torch.device, resume: Path | None = None
) -> TrainingState[nn.Module]:
    """The state of a run before its next step: a new one, or that of a checkpoint.

    Raises: CheckpointError if a checkpoint cannot be read or is another run's.
    """
    choose_algorithms(settings.training, device)
    is_fp16 = precision_on(settings.training, device) == "fp16"
    scaler = torch.amp.GradScaler(device.type, enabled=is_fp16)
    state = TrainingState(learner.module, learner.optimizer, scaler)
    if resume is None:
        learner.begin()
    else:
        restore_checkpoint(resume, state, settings)
    return state


def _describe(
    outcome: Outcome, state: TrainingState[nn.Module], rate_name: str, steps_per_epoch: int
) -> Measures:
    """What is logged of a step's outcome and of the run so far, by metric name."""
    measures = {"train/loss": float(outcome.loss.detach())}
    measures |= {f"train/{name}": float(term) for name, term in outcome.terms.items()}
    measures["train/epoch"] = state.step / steps_per_epoch
    measures[f"train/{rate_name}"] = state.optimizer.param_groups[0]["lr"]
    measures["data/replaced_images"] = state.replaced_images
    if state.scaler.is_enabled():
        measures["train/skipped_steps"] = state.skipped_steps
    return measures


def _probe(
    probe: Probe, state: TrainingState[nn.Module], context: Context, *, keeps_arrays: bool
) -> None:
    probing = probe(state.module)
    context.report(state.step, probing.measures)
    if keeps_arrays and probing.arrays:
        context.keep(state.step, probing.arrays)
