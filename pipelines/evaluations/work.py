"""By whom, and in which arithmetic, an evaluation trains."""

from dataclasses import dataclass
from typing import Literal

from bt_ray.config import ScalingSettings


@dataclass(frozen=True, kw_only=True)
class WorkOrder:
    """The options of every evaluation that trains something by the loop."""

    workers: int = 1
    """Ray Train workers; 0 runs everything in this process. Never changes a result."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """What a worker computes on; auto: a GPU if there is one for each worker."""
    cpus_per_worker: float = 1
    """Logical CPUs that Ray reserves for each worker."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the encoder and of what is trained on it."""
    seed: int = 0
    """Seed of the first weights of what is trained on the encoder, of the images' order, their
    views and subsets."""

    @property
    def scaling(self) -> ScalingSettings:
        """The workers, as the loop's settings have them."""
        return ScalingSettings(
            workers=self.workers,
            accelerator=self.accelerator,
            cpus_per_worker=self.cpus_per_worker,
        )
