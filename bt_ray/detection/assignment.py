"""Detection as what workers are to train."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bt_ray.config import Settings
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.decode import MakeViews
from bt_ray.detection.annotations import Annotations
from bt_ray.detection.learner import DetectionLearner
from bt_ray.detection.protocols import DetectionProtocol
from bt_ray.detection.scenes import SceneMaker
from bt_ray.detection.scorer import DetectionScorer
from bt_ray.methods.learner import Probing
from bt_ray.model.weights import ENCODER
from bt_ray.storage.names import folder_of
from bt_ray.storage.working_copy import bring
from bt_ray.training.assignment import EVALUATIONS

TRAIN_ANNOTATIONS, TEST_ANNOTATIONS = "train.arrow", "test.arrow"
"""Files of objects in the start's folder."""


@dataclass(frozen=True, kw_only=True)
class Detection:
    """Fine-tuning an encoder as a detector."""

    settings: Settings
    protocol: DetectionProtocol

    @property
    def run_folder(self) -> Path:
        """The folder of the task's name in that of all evaluations."""
        return folder_of(self.settings.storage) / EVALUATIONS / self.settings.name

    @property
    def make_views(self) -> MakeViews:
        """Whole scenes."""
        return SceneMaker(self.protocol.scaling)

    @property
    def start(self) -> Path:
        """Folder of `train.arrow` and `test.arrow`, the objects of the images.

        With the encoder's first weights and settings; without them they are drawn from the seed.
        """
        return self.run_folder / "start"

    def build_learner(
        self, shards: ShardSet, device: torch.device, steps_per_epoch: int
    ) -> DetectionLearner:
        """The encoder with new heads, on the device."""
        bring(self.start)
        return DetectionLearner(
            self.settings,
            self.protocol,
            self.start if (self.start / ENCODER).exists() else None,
            device,
            annotations=Annotations.open(self.start / TRAIN_ANNOTATIONS),
            steps_per_epoch=steps_per_epoch,
        )

    def build_probe(
        self, device: torch.device, rank: int, world_size: int
    ) -> Callable[[Any], Probing]:
        """Average precision on the test images."""
        return DetectionScorer(
            self.settings,
            self.protocol,
            Annotations.open(self.start / TEST_ANNOTATIONS),
            device,
            rank,
            world_size,
        )
