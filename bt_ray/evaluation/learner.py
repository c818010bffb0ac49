"""Linear evaluation and fine-tuning: what trains a classifier on a pretrained encoder."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from bt_ray.config import Settings
from bt_ray.data.stream.batches import Batch
from bt_ray.distributed.collectives import sum_for_replicas, world_size
from bt_ray.evaluation.protocols import Protocol
from bt_ray.methods.learner import Embedded, Outcome
from bt_ray.model.batch_norm import globalize_batch_norm
from bt_ray.model.classifier import build_classifier
from bt_ray.model.inputs import to_input
from bt_ray.model.pretrained import load_folder
from bt_ray.model.recompute import recompute_blocks
from bt_ray.optim.sgd import build_sgd
from bt_ray.precision import autocast, memory_format


class ClassifierLearner:
    """An encoder with a head drawn from the seed, the cross-entropy and SGD.

    Args:
      settings: what is trained on, in views of which kind, for how long.
      start: folder with the encoder's first weights and settings.
      labels: int64 (n,), of all training images by row, 0 to `num_classes` − 1.
      steps_per_epoch: of the plan that the batches follow.
    Raises: CheckpointError if the encoder's weights are not those of its settings.
    """

    rate_name = "head_rate"
    rate_setting = "--head-rate or --encoder-rate"
    probes_untrained = False

    def __init__(
        self,
        settings: Settings,
        protocol: Protocol,
        start: Path,
        device: torch.device,
        *,
        labels: Tensor,
        num_classes: int,
        steps_per_epoch: int,
    ) -> None:
        self._settings, self._protocol, self._device = settings, protocol, device
        self._labels, self._steps_per_epoch = labels, steps_per_epoch
        torch.manual_seed(settings.training.seed)
        self.module = build_classifier(
            load_folder(start),
            num_classes,
            frozen=protocol.frozen,
            standardize=protocol.standardize,
        )
        if world_size() > 1:
            globalize_batch_norm(self.module)
        if settings.training.activation_checkpointing and not protocol.frozen:
            recompute_blocks(self.module.encoder)
        layout = memory_format(settings.training)
        self.module.to(device, memory_format=layout)  # type: ignore[call-overload]
        groups = [{"params": list(self.module.head.parameters()), "peak_lr": protocol.head_rate}]
        if protocol.encoder_rate is not None:
            encoder = list(self.module.encoder.parameters())
            groups.append({"params": encoder, "peak_lr": protocol.encoder_rate})
        self.optimizer = build_sgd(
            groups,
            lr=protocol.head_rate,
            momentum=protocol.momentum,
            weight_decay=protocol.weight_decay,
            fused=device.type == "cuda",
        )

    def begin(self) -> None:
        """Does nothing: the encoder's weights are there already."""

    def embed(self, batch: Batch) -> Embedded:
        """Representations (n, F) of the images' one view, and their labels (n,)."""
        view = to_input(batch.views[0], self._settings)
        labels = self._labels[torch.tensor(batch.samples)]
        if self._device.type == "cuda":
            labels = labels.pin_memory()  # from there a copy need not be waited for
        labels = labels.to(self._device, non_blocking=True)
        with self._autocast():
            return self.module.represent(view), labels

    def objective(self, embedded: Embedded) -> Outcome:
        """The mean cross-entropy over the global batch."""
        representations, labels = embedded
        with self._autocast():
            logits = self.module.head(representations).float()
        share = cross_entropy(logits, labels, reduction="sum") / self._settings.data.global_batch
        return Outcome(sum_for_replicas(share), {}, (logits,))

    def rate_factor(self, step: int) -> float:
        """That of the protocol, which changes from epoch to epoch."""
        return self._protocol.rate_factor(step // self._steps_per_epoch)

    def after_step(self, step: int) -> None:
        """Does nothing."""

    def _autocast(self) -> torch.autocast:
        return autocast(self._settings.training, self._device)
