"""The training loop. It knows neither Ray nor MLflow: batches come in, reports go out."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from bt_ray.checkpoints.checkpoint import restore_checkpoint
from bt_ray.checkpoints.state import TrainingState
from bt_ray.config import Settings
from bt_ray.data.stream.feed import Feed
from bt_ray.distributed.collectives import vote
from bt_ray.distributed.gradients import share_state
from bt_ray.methods.learner import Learner, Outcome, Probing
from bt_ray.methods.step import build_step
from bt_ray.model.average import Average
from bt_ray.optim.build import set_rates
from bt_ray.precision import choose_algorithms, precision_on
from bt_ray.training.calendar import build_calendar
from bt_ray.training.checkpointer import Checkpointer
from bt_ray.training.context import Context, Measures
from bt_ray.training.gauges import read_gauges
from bt_ray.training.meter import Meter
from bt_ray.training.quarantine import Quarantine
from bt_ray.training.randomness import seed_step
from bt_ray.training.selection import Selection, is_out_of_patience
from bt_ray.training.watch import FiniteWatch

Probe = Callable[..., Probing]
"""Called with the learner's module and, if there is one, the averaged encoder."""


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

    It also ends where the score of its probes has not got better for `training.patience` probes.

    Args:
      steps_per_epoch: of the plan that the batches follow.
      batches: this worker's batches, from the checkpoint's step (or 0) to the last.
      probe: measures the module during and after training, and scores it.
      resume: verified checkpoint to continue from.
    Returns: whether it left after a checkpoint because a node will be taken away: the run shall
      go on elsewhere.
    Raises: NonFiniteLossError if the loss was not finite, when it is next reported or kept;
      RunFailedError if a checkpoint could not be written; UnreadableImagesError; CheckpointError.
    """
    calendar = build_calendar(settings, steps_per_epoch, context.device)
    state = begin(learner, settings, context.device, resume)
    if is_out_of_patience(state, settings):
        return False
    if state.step == 0 and learner.probes_untrained:
        _look(probe, state, context, keeps_arrays=True)
    selection = Selection(state, settings, context)
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

            stops = is_overdue = must_leave = is_best = is_over = False
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
                    measures = _look(probe, state, context, calendar.is_last(state.step))
                    is_best = selection.consider(measures)
                is_over = is_out_of_patience(state, settings)
            is_due = calendar.is_due(state.step, calendar.checkpoints)
            if is_due or is_overdue or is_best or is_over or leaves:
                watch.check()
                with meter.paused():
                    checkpointer.keep()
            if leaves or is_over:
                return must_leave and not (stops or is_over)
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
    if settings.training.average_decay is not None:
        encoder = learner.module.get_submodule("encoder")
        state.average = Average(encoder, settings.training.average_decay)
        share_state(state.average.encoder)
    if resume is not None:
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


def _look(
    probe: Probe, state: TrainingState[nn.Module], context: Context, keeps_arrays: bool
) -> Measures:
    """What the probe measures, which is recorded."""
    averages = () if state.average is None else (state.average.encoder,)
    probing = probe(state.module, *averages)
    context.report(state.step, probing.measures)
    if keeps_arrays and probing.arrays:
        context.keep(state.step, probing.arrays)
    return probing.measures
