"""Detection: what fine-tunes a pretrained encoder as Faster or Mask R-CNN."""

from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from bt_ray.config import Settings
from bt_ray.data.stream.batches import Batch
from bt_ray.detection.annotations import Annotations, Objects
from bt_ray.detection.model import build_detector
from bt_ray.detection.protocols import DetectionProtocol
from bt_ray.detection.scenes import SceneParameters, draw_scenes
from bt_ray.detection.targets import Target, build_target
from bt_ray.distributed.collectives import gather_rows, sum_for_replicas, world_size
from bt_ray.errors import SettingsError
from bt_ray.methods.learner import Embedded, Outcome
from bt_ray.model.batch_norm import globalize_batch_norm
from bt_ray.model.encoder import build_encoder
from bt_ray.model.inputs import to_input
from bt_ray.model.pretrained import load_folder
from bt_ray.model.recompute import recompute_blocks
from bt_ray.optim.sgd import build_sgd
from bt_ray.precision import autocast, memory_format

TERMS = ("rpn_objectness", "rpn_box", "class", "box", "mask")
"""The losses, in the order of what `embed` gives; the last one only with masks."""
_MULTIPLE_PX = 32


class DetectionLearner:
    """A detector on an encoder, the losses of proposals and of regions, and SGD.

    Args:
      settings: what is trained on, for how long.
      start: folder with the encoder's first weights and settings; none: they are drawn from the
        seed, as all others are.
      annotations: the objects of all training images, by row.
      steps_per_epoch: of the plan that the batches follow.
    Raises: SettingsError if the encoder is no ResNet, masks are wanted where there are none, or
      the batch shall be trained in parts; CheckpointError if the encoder's weights are not those
      of its settings.
    """

    rate_name = "rate"
    rate_setting = "--rate"
    probes_untrained = False

    def __init__(
        self,
        settings: Settings,
        protocol: DetectionProtocol,
        start: Path | None,
        device: torch.device,
        *,
        annotations: Annotations,
        steps_per_epoch: int,
    ) -> None:
        _check(settings, protocol, annotations)
        self._settings, self._protocol, self._device = settings, protocol, device
        self._annotations, self._steps_per_epoch = annotations, steps_per_epoch
        torch.manual_seed(settings.training.seed)
        encoder = _first_encoder(settings, start)
        if settings.training.activation_checkpointing:
            recompute_blocks(encoder)
        self.module = build_detector(encoder, len(annotations.classes), protocol).train()
        if world_size() > 1:
            globalize_batch_norm(self.module)
        layout = memory_format(settings.training)
        self.module.to(device, memory_format=layout)  # type: ignore[call-overload]
        self.optimizer = build_sgd(
            [{"params": list(self.module.parameters()), "peak_lr": protocol.rate}],
            lr=protocol.rate,
            momentum=protocol.momentum,
            weight_decay=protocol.weight_decay,
            fused=device.type == "cuda",
        )

    def begin(self) -> None:
        """Does nothing: the encoder's weights are there already."""

    def embed(self, batch: Batch) -> Embedded:
        """This worker's shares of the losses `TERMS`, scalars, of its whole batch."""
        objects = [self._annotations[sample] for sample in batch.samples.tolist()]
        scenes = self._scenes(batch, objects)
        sizes = list(zip(scenes.heights.tolist(), scenes.widths.tolist(), strict=True))
        height, width = _crop(sizes, self._device)
        images = to_input(batch.views[0][:, :, :height, :width], self._settings)
        targets = [self._target(of_image, scenes, row) for row, of_image in enumerate(objects)]
        with autocast(self._settings.training, self._device):
            losses = cast(dict[str, Tensor], self.module(images, sizes, targets))
        return tuple(losses[name] for name in TERMS if name in losses)

    def objective(self, embedded: Embedded) -> Outcome:
        """The sum of the losses of the global batch, those of proposals with their weight."""
        losses = dict(zip(TERMS, sum_for_replicas(torch.stack(embedded)).unbind(), strict=False))
        weighted = [
            loss * self._protocol.rpn_weight if name.startswith("rpn_") else loss
            for name, loss in losses.items()
        ]
        total = torch.stack(weighted).sum()
        return Outcome(total, {name: loss.detach() for name, loss in losses.items()}, embedded)

    def rate_factor(self, step: int) -> float:
        """That of the protocol."""
        return self._protocol.rate_factor(step)

    def after_step(self, step: int) -> None:
        """Does nothing."""

    def _scenes(self, batch: Batch, objects: list[Objects]) -> SceneParameters:
        """What was drawn of the batch's images, drawn again."""
        return draw_scenes(
            self._protocol.scaling,
            seed=self._settings.training.seed,
            epoch=batch.step // self._steps_per_epoch,
            samples=batch.samples,
            widths=np.array([one.width for one in objects], np.int64),
            heights=np.array([one.height for one in objects], np.int64),
        )

    def _target(self, objects: Objects, scenes: SceneParameters, row: int) -> Target:
        """On the device, the objects of the batch's image of this row."""
        target = build_target(objects, scenes, row, masks=self._protocol.masks)
        return {name: value.to(self._device) for name, value in target.items()}


def _check(settings: Settings, protocol: DetectionProtocol, annotations: Annotations) -> None:
    """Raises SettingsError for what cannot be trained so."""
    if settings.training.micro_batch is not None:
        raise SettingsError(
            f"training.micro_batch={settings.training.micro_batch}: a detector is trained on a "
            "worker's whole batch at once, since its regions are drawn from all of its images; "
            "leave it out, and take more workers, a smaller --batch or "
            "training.activation_checkpointing=true for less memory."
        )
    if protocol.masks and not annotations.has_masks:
        raise SettingsError(
            "--masks trains on objects' masks, and these annotations have boxes alone; leave it "
            "out."
        )


def _first_encoder(settings: Settings, start: Path | None) -> nn.Module:
    """The encoder of the folder, or of new weights if there is none."""
    if start is None:
        return build_encoder(settings)
    return load_folder(start).encoder


def _crop(sizes: list[tuple[int, int]], device: torch.device) -> tuple[int, int]:
    """Height and width of the canvas that holds all workers' scenes, multiples of 32.

    They are all workers' so that each batch norm sees as much padding as it would with one worker.
    """
    largest = torch.tensor([[max(side) for side in zip(*sizes, strict=True)]], device=device)
    height, width = gather_rows(largest, [1] * world_size()).amax(0).tolist()
    return -(-height // _MULTIPLE_PX) * _MULTIPLE_PX, -(-width // _MULTIPLE_PX) * _MULTIPLE_PX
