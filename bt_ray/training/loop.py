"""The training loop. It knows neither Ray nor MLflow: batches come in, reports go out."""

import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from torch import nn

from bt_ray.checkpoints.checkpoint import (
    TrainingState,
    load_start,
    restore_checkpoint,
    save_checkpoint,
)
from bt_ray.config import Settings
from bt_ray.data.stream.batches import Batch
from bt_ray.distributed.collectives import any_worker, data_parallel, sum_numbers, world_size
from bt_ray.evaluation.probe import Probing
from bt_ray.model.inputs import to_input
from bt_ray.model.twins import Twins, build_twins
from bt_ray.objective.build import build_objective
from bt_ray.optim.lars import build_optimizer, set_rates
from bt_ray.optim.schedule import rate_factor
from bt_ray.precision import autocast, memory_format
from bt_ray.tracking.snapshots import Arrays
from bt_ray.training.gauges import read_gauges
from bt_ray.training.meter import Meter
from bt_ray.training.quarantine import Quarantine
from bt_ray.training.watch import FiniteWatch

M = TypeVar("M", bound=nn.Module)
Measures = dict[str, float]


class Context(Protocol):
    """What the loop needs to know of the place it runs in."""

    @property
    def rank(self) -> int:
        """This worker, from 0."""

    @property
    def device(self) -> torch.device:
        """What this worker computes on."""

    def report(self, step: int, measures: Measures) -> None:
        """Records measures made after `step` steps. Called by every worker."""

    def quarantine(self, rows: Sequence[int]) -> None:
        """Lists images that cannot be decoded. Called by a worker that was to be given some."""

    def keep(self, step: int, arrays: Arrays) -> None:
        """Keeps what a picture is drawn from. Called by every worker, with the same arrays."""

    def commit(self, step: int, checkpoint: Path | None) -> None:
        """Keeps a checkpoint. Called by every worker; the first one alone brings a folder."""

    def wants_stop(self) -> bool:
        """Whether this worker has heard that the run shall stop."""


def train(
    settings: Settings,
    *,
    steps_per_epoch: int,
    batches: Iterable[Batch],
    context: Context,
    probe: Callable[[Twins], Probing],
    resume: Path | None = None,
) -> Twins:
    """The trained twins, after all steps of the run, or those until it was asked to stop.

    Args:
      steps_per_epoch: of the plan that the batches follow.
      batches: this worker's batches, from the checkpoint's step (or 0) to the last.
      probe: looks at the twins before, during and after training.
      resume: checkpoint to continue from.
    Raises: NonFiniteLossError if the loss was NaN or infinite, when it is next reported or a
      checkpoint is due; UnreadableImagesError; CheckpointError.
    """
    total_steps = settings.schedule.epochs * steps_per_epoch
    warmup_steps = round(settings.schedule.warmup_epochs * steps_per_epoch)
    checkpoint_steps = max(1, round(settings.training.checkpoint_every_epochs * steps_per_epoch))
    probe_steps = max(1, round(settings.training.probe_every_epochs * steps_per_epoch))
    # To agree on a stop, the workers have to wait for the device: a GPU's queue would run dry.
    stop_steps = 1 if context.device.type == "cpu" else settings.training.log_every_steps

    state = build_state(settings, context.device)
    if resume is not None:
        restore_checkpoint(resume, state, settings)
    elif settings.model.start_from is not None:
        load_start(state.module, settings)
    parallel_twins = data_parallel(state.module)
    objective = build_objective(settings.objective)
    if state.step == 0:
        probing = probe(state.module)
        context.report(0, probing.measures)
        context.keep(0, probing.arrays)
    meter, watch = Meter(settings, start_step=state.step), FiniteWatch(context.device)
    quarantine = Quarantine(settings, context.device)

    for batch in meter.timed(batches):
        set_rates(
            state.optimizer,
            rate_factor(
                state.step,
                total_steps=total_steps,
                warmup_steps=warmup_steps,
                final_factor=settings.schedule.final_factor,
            ),
        )
        view_a, view_b = (to_input(view, settings.training) for view in batch.views)
        with autocast(settings.training, context.device):
            z_a, z_b = parallel_twins(view_a, view_b)
        result = objective(z_a, z_b)
        watch.look(state.step, result.loss, z_a, z_b)
        state.scaler.scale(result.loss).backward()
        optimizer_step(state)
        state.step += 1
        state.unsummed_digest += batch.digest
        if batch.replaced:
            quarantine.look(batch.replaced)
            context.quarantine(batch.replaced)

        is_last = state.step == total_steps
        stops = False
        if state.step % stop_steps == 0 or is_last:
            stops = any_worker(context.wants_stop(), context.device)
            state.replaced_images += quarantine.check(state.step)
        if state.step % settings.training.log_every_steps == 0 or is_last or stops:
            watch.check()
            measures = {
                "train/epoch": state.step / steps_per_epoch,
                "train/loss": float(result.loss.detach()),
                **{f"train/{name}": float(term) for name, term in result.terms.items()},
                "data/replaced_images": state.replaced_images,
                "train/weight_rate": state.optimizer.param_groups[0]["lr"],
                **meter.read(state.step),
                **read_gauges(context.device),
            }
            if state.scaler.is_enabled():
                measures["train/skipped_steps"] = state.skipped_steps
            context.report(state.step, measures)
        if state.step % probe_steps == 0 or is_last:
            with meter.paused():
                probing = probe(state.module)
                context.report(state.step, probing.measures)
                if is_last:
                    context.keep(state.step, probing.arrays)
        if state.step % checkpoint_steps == 0 or is_last or stops:
            watch.check()
            with meter.paused():
                commit(state, settings, context)
        if stops:
            break
    return state.module


def build_state(settings: Settings, device: torch.device) -> TrainingState[Twins]:
    """Twins with weights drawn from the seed, on the device, and what it takes to train them."""
    torch.manual_seed(settings.training.seed)
    twins = build_twins(settings.model)
    if world_size() > 1:
        twins.globalize_batch_norm()
    twins.to(device, memory_format=memory_format(settings.training))  # type: ignore[call-overload]
    return TrainingState(
        module=twins,
        optimizer=build_optimizer(settings, twins),
        scaler=torch.amp.GradScaler(device.type, enabled=settings.training.precision == "fp16"),
    )


def optimizer_step(state: TrainingState[M]) -> None:
    """Moves the weights, unless fp16 gradients overflowed: then the step is skipped and counted."""
    scale = state.scaler.get_scale()
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.skipped_steps += state.scaler.get_scale() < scale
    state.optimizer.zero_grad()


def commit(state: TrainingState[M], settings: Settings, context: Context) -> None:
    """Checkpoints the state: the first worker writes, all of them take part."""
    state.stream_digest += sum_numbers(state.unsummed_digest, context.device)
    state.unsummed_digest = 0
    if context.rank != 0:
        context.commit(state.step, None)
        return
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder), state, settings)
        context.commit(state.step, Path(folder))
