"""The loop that trains a classifier on an encoder. It knows neither Ray nor MLflow."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from bt_ray.checkpoints.checkpoint import TrainingState, restore_checkpoint
from bt_ray.config import Settings
from bt_ray.data.stream.batches import Batch
from bt_ray.distributed.collectives import all_reduce_sum, any_worker, data_parallel, world_size
from bt_ray.evaluation.protocols import Protocol
from bt_ray.model.batch_norm import globalize_batch_norm
from bt_ray.model.classifier import Classifier, build_classifier
from bt_ray.model.inputs import to_input
from bt_ray.model.pretrained import load_folder
from bt_ray.optim.lars import set_rates
from bt_ray.precision import autocast, memory_format
from bt_ray.training.gauges import read_gauges
from bt_ray.training.loop import Context, commit, optimizer_step
from bt_ray.training.meter import Meter
from bt_ray.training.quarantine import Quarantine
from bt_ray.training.watch import FiniteWatch

Score = Callable[[Classifier], dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A classifier to be trained; it travels to the workers.

    `settings`: what is trained on, in which views, how long. `start`: a folder with the encoder's
    first weights and settings. `run_folder`: where checkpoints and measures go.
    """

    settings: Settings
    protocol: Protocol
    start: Path
    run_folder: Path


def train_classifier(
    task: Task,
    *,
    steps_per_epoch: int,
    labels: Tensor,
    num_classes: int,
    batches: Iterable[Batch],
    context: Context,
    score: Score,
    resume: Path | None = None,
) -> Classifier:
    """The trained classifier, after all steps, or those until it was asked to stop.

    Args:
      steps_per_epoch: of the plan that the batches follow.
      labels: int64 (n,), of all training images by row, 0 to `num_classes` − 1.
      batches: this worker's batches, of one view each, from the checkpoint's step (or 0) on.
      score: what the classifier's scores on test images are, by name; asked at the end, and
        before every `training.probe_every_epochs`.
      resume: checkpoint to continue from.
    Raises: NonFiniteLossError, UnreadableImagesError, CheckpointError.
    """
    settings = task.settings
    total_steps = settings.schedule.epochs * steps_per_epoch
    checkpoint_steps = max(1, round(settings.training.checkpoint_every_epochs * steps_per_epoch))
    score_steps = max(1, round(settings.training.probe_every_epochs * steps_per_epoch))
    stop_steps = 1 if context.device.type == "cpu" else settings.training.log_every_steps

    state = build_state(task, num_classes, context.device)
    if resume is not None:
        restore_checkpoint(resume, state, settings)
    state.module.train()
    parallel = data_parallel(state.module)
    meter = Meter(settings, start_step=state.step)
    watch = FiniteWatch(context.device, "--head-rate or --encoder-rate")
    quarantine = Quarantine(settings, context.device)

    for batch in meter.timed(batches):
        set_rates(state.optimizer, task.protocol.rate_factor(state.step // steps_per_epoch))
        with autocast(settings.training, context.device):
            logits = parallel(to_input(batch.views[0], settings.training)).float()
        targets = labels[torch.tensor(batch.samples)].to(context.device)
        # This worker's share of the global batch's mean; gradients are summed over the workers.
        share = cross_entropy(logits, targets, reduction="sum") / settings.data.global_batch
        loss = all_reduce_sum(share.detach())
        watch.look(state.step, loss, logits)
        state.scaler.scale(share).backward()
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
                "train/loss": float(loss),
                "data/replaced_images": state.replaced_images,
                "train/head_rate": state.optimizer.param_groups[0]["lr"],
                **meter.read(state.step),
                **read_gauges(context.device),
            }
            context.report(state.step, measures)
        if state.step % score_steps == 0 or is_last:
            with meter.paused():
                scores = score(state.module)
                context.report(state.step, {f"test/{name}": v for name, v in scores.items()})
        if state.step % checkpoint_steps == 0 or is_last or stops:
            watch.check()
            with meter.paused():
                commit(state, settings, context)
        if stops:
            break
    return state.module


def build_state(task: Task, num_classes: int, device: torch.device) -> TrainingState[Classifier]:
    """The encoder with a head drawn from the seed, on the device, and what it takes to train."""
    settings, protocol = task.settings, task.protocol
    torch.manual_seed(settings.training.seed)
    classifier = build_classifier(
        load_folder(task.start),
        num_classes,
        frozen=protocol.frozen,
        standardize=protocol.standardize,
    )
    if world_size() > 1:
        globalize_batch_norm(classifier)
    classifier.to(device, memory_format=memory_format(settings.training))  # type: ignore[call-overload]
    groups = [{"params": list(classifier.head.parameters()), "peak_lr": protocol.head_rate}]
    if protocol.encoder_rate is not None:
        encoder = list(classifier.encoder.parameters())
        groups.append({"params": encoder, "peak_lr": protocol.encoder_rate})
    optimizer = torch.optim.SGD(
        groups,
        lr=protocol.head_rate,
        momentum=protocol.momentum,
        weight_decay=protocol.weight_decay,
    )
    return TrainingState(
        module=classifier,
        optimizer=optimizer,
        scaler=torch.amp.GradScaler(device.type, enabled=settings.training.precision == "fp16"),
    )
