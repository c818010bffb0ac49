"""A number of workers that follows the cluster, and data cut for the number that there is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray.data
from ray.train import DataConfig
from ray.train.torch import TorchTrainer

from bt_ray.config import ScalingSettings, Settings
from bt_ray.data.stream.ingest import build_dataset
from bt_ray.ray_internals import ClusterPolicy, scale_by
from bt_ray.training.cluster import DATA_CPUS


def num_workers(scaling: ScalingSettings) -> int | tuple[int, int]:
    """The workers as `ray.train.ScalingConfig` wants them: a number, or the ends of a range."""
    return (scaling.min_workers, scaling.max_workers) if scaling.is_elastic else scaling.min_workers


def follow_cluster(trainer: TorchTrainer, scaling: ScalingSettings, total_steps: int) -> None:
    """Has the trainer's group be as large as the cluster has room for, within its range.

    After a loss it starts again with what is there. It grows when a checkpoint has just been kept,
    so that only the steps that were made while it was written are made again.
    """
    policy = ClusterPolicy(
        trainer.scaling_config,
        spare_cpus=DATA_CPUS,
        grow_after_s=60 * scaling.grow_minutes,
        last_step=total_steps,
    )
    scale_by(trainer, policy)


@dataclass(frozen=True)
class Steps:
    """Steps `start` to `stop` (exclusive) of a run, before it is known for how many workers."""

    settings: Settings
    start: int
    stop: int
    most_decoders: int | None
    """As for `build_dataset`."""


class DataForGroup(DataConfig):
    """Hands `Steps` to a group of workers, as a data set that is cut for so many."""

    def configure(  # type: ignore[override,unused-ignore]
        self,
        datasets: Mapping[str, Any],
        world_size: int,
        worker_handles: Any,
        worker_node_ids: Any,
        **more: Any,
    ) -> list[dict[str, ray.data.DataIterator]]:
        """Each worker's part of the data sets, by their names; Ray Train asks at every start."""
        built: dict[str, ray.data.Dataset] = {
            name: build_dataset(
                steps.settings,
                start=steps.start,
                stop=steps.stop,
                workers=world_size,
                most_decoders=steps.most_decoders,
            )
            for name, steps in datasets.items()
        }
        return super().configure(built, world_size, worker_handles, worker_node_ids, **more)
