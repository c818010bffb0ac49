"""The whole tree: everything about one run."""

import math
from dataclasses import dataclass, field

from bt_ray.config.checks import require
from bt_ray.config.data import DataSettings, ViewSettings
from bt_ray.config.model import SMALL_ENCODERS, ModelSettings, ObjectiveSettings
from bt_ray.config.optimizer import OptimizerSettings, ScheduleSettings
from bt_ray.config.training import (
    ProbeSettings,
    ScalingSettings,
    TrackingSettings,
    TrainingSettings,
    part_rows,
)
from bt_ray.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything about one run."""

    name: str
    """Name of the run and of its folder; the same name continues the same run."""
    storage: str = "runs"
    """Folder of all runs, written shards and the MLflow store, which all nodes mount; or a URI such
    as s3://bucket/runs, where each run keeps an MLflow store of its own without a server."""
    data: DataSettings
    views: ViewSettings = field(default_factory=ViewSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    probe: ProbeSettings = field(default_factory=ProbeSettings)
    scaling: ScalingSettings = field(default_factory=ScalingSettings)
    tracking: TrackingSettings = field(default_factory=TrackingSettings)

    def __post_init__(self) -> None:
        require(
            bool(self.name) and "/" not in self.name and self.name not in (".", ".."),
            f"name={self.name!r} must be a plain folder name.",
        )
        require(
            self.objective.variant != "cross_entropy" or self.model.projector_widths[-1] > 1,
            "objective.variant=cross_entropy needs two dimensions, and model.projector_widths="
            f"{self.model.projector_widths} end with one.",
        )
        workers, batch = max(1, self.scaling.min_workers), self.data.global_batch
        most = self.training.micro_batch
        if self.scaling.is_elastic:
            self._check_range(batch, most)
        elif batch % workers:
            below = batch - batch % workers
            near = [n for n in (below, below + workers) if n > 0]
            raise SettingsError(
                f"data.global_batch={batch} must be divisible by scaling.workers={workers}; "
                f"try {' or '.join(map(str, near))}."
            )
        if workers == 1 and most is not None and most < batch and 1 in part_rows(batch, most):
            fits = (size for size in range(most, batch + 1) if 1 not in part_rows(batch, size))
            raise SettingsError(
                f"training.micro_batch={most} cuts data.global_batch={batch} into parts of which "
                f"one is a single image, and batch norm needs two; try {next(fits)}."
            )
        require(
            not self.training.activation_checkpointing or self.model.encoder not in SMALL_ENCODERS,
            "training.activation_checkpointing computes an encoder's blocks again, and "
            f"model.encoder={self.model.encoder} has none; leave it off.",
        )

    def _check_range(self, batch: int, micro_batch: int | None) -> None:
        """Raises SettingsError unless every number of workers in the range gives one result."""
        workers, least = self.scaling.workers, self.scaling.min_workers
        require(
            self.scaling.max_workers <= batch,
            f"scaling.workers={workers} must not end above data.global_batch={batch}: each worker "
            "needs an image.",
        )
        share = math.ceil(batch / least)
        require(
            micro_batch is None or micro_batch >= share,
            f"training.micro_batch={micro_batch} cuts the batch into other parts on another number "
            f"of workers, and batch norms use the statistics of parts: scaling.workers={workers} "
            f"must be one number, or training.micro_batch {share} or more, or none.",
        )

    @property
    def rate_scale(self) -> float:
        """Factor from a base learning rate to this batch's (paper, section 2.2)."""
        return self.data.global_batch / 256

    @property
    def registered_model(self) -> str:
        """Name of this run's encoder in the model registry."""
        return self.tracking.registered_model or f"barlow-{self.name}"
