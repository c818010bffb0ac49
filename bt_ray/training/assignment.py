"""What workers are to train: it travels to them, and makes there what the loop needs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from bt_ray.config import Settings
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.decode import MakeViews, make_views
from bt_ray.evaluation import protocols
from bt_ray.evaluation.labelled import read_labels
from bt_ray.evaluation.learner import ClassifierLearner
from bt_ray.evaluation.probe import build_probe
from bt_ray.evaluation.scorer import Scorer
from bt_ray.methods.build import build_learner
from bt_ray.methods.learner import Learner, Probing
from bt_ray.storage.names import folder_of
from bt_ray.storage.working_copy import bring

EVALUATIONS = "evaluations"
"""Name of the folder of classifiers and records, in the storage of all runs."""


class Assignment(Protocol):
    """A learner and its probe, before there is a device to make them on."""

    @property
    def settings(self) -> Settings:
        """What is trained on, how long, by how many workers."""

    @property
    def run_folder(self) -> Path:
        """Where checkpoints and measures go, on the machine that asks."""

    @property
    def make_views(self) -> MakeViews:
        """What the loader makes of a step's images; it travels to the processes that decode."""

    def build_learner(
        self, shards: ShardSet, device: torch.device, steps_per_epoch: int
    ) -> Learner:
        """What is trained, on this worker's device.

        Args:
          shards: the training images.
        """

    def build_probe(
        self, device: torch.device, rank: int, world_size: int
    ) -> Callable[[Any], Probing]:
        """What measures the learner's module, this worker's share of it."""


@dataclass(frozen=True)
class Pretraining:
    """Pretraining an encoder."""

    settings: Settings

    @property
    def run_folder(self) -> Path:
        """The folder of the run's name in the storage of all runs."""
        return folder_of(self.settings.storage) / self.settings.name

    @property
    def make_views(self) -> MakeViews:
        """The augmented views."""
        return make_views

    def build_learner(
        self, shards: ShardSet, device: torch.device, steps_per_epoch: int
    ) -> Learner:
        """That of the settings' method, on the device."""
        return build_learner(
            self.settings,
            device,
            steps_per_epoch=steps_per_epoch,
            num_images=shards.manifest.num_rows,
        )

    def build_probe(
        self, device: torch.device, rank: int, world_size: int
    ) -> Callable[[Any], Probing]:
        """KNN and signs of collapse."""
        return build_probe(self.settings, device, rank=rank, world_size=world_size)


@dataclass(frozen=True, kw_only=True)
class Classification:
    """Training a classifier on an encoder."""

    settings: Settings
    protocol: protocols.Protocol

    @property
    def run_folder(self) -> Path:
        """The folder of the task's name in that of all evaluations."""
        return folder_of(self.settings.storage) / EVALUATIONS / self.settings.name

    @property
    def make_views(self) -> MakeViews:
        """One view an image, cropped and flipped."""
        return make_views

    @property
    def start(self) -> Path:
        """Folder with the encoder's first weights and settings."""
        return self.run_folder / "start"

    def build_learner(
        self, shards: ShardSet, device: torch.device, steps_per_epoch: int
    ) -> ClassifierLearner:
        """The encoder with a new head, on the device."""
        bring(self.start)
        return ClassifierLearner(
            self.settings,
            self.protocol,
            self.start,
            device,
            labels=read_labels(shards),
            num_classes=len(shards.manifest.classes),
            steps_per_epoch=steps_per_epoch,
        )

    def build_probe(
        self, device: torch.device, rank: int, world_size: int
    ) -> Callable[[Any], Probing]:
        """Accuracy on the test images."""
        return Scorer(self.settings, device, rank, world_size)
