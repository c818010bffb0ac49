"""A number of workers that follows the cluster."""

from ray.train.torch import TorchTrainer

from bt_ray.config import ScalingSettings
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
