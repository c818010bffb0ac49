"""Settings of the loop, of what is measured in it, of where it runs and is recorded."""

import math
import re
from dataclasses import dataclass
from typing import Literal

from bt_ray.config.checks import require, require_positive
from bt_ray.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How the loop runs."""

    seed: int = 0
    """Seed of the initial weights, the order of the images and the views."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of encoder and projector; the objective is always float32 or better. auto: bf16
    where the processors or GPUs have it, fp16 on older GPUs with tensor cores (V100, T4), else
    fp32. A run keeps what it began with."""
    channels_last: bool = True
    """Lay images out channels-last, which convolutions prefer."""
    micro_batch: int | None = None
    """Images of a worker that the encoder has in memory at a time, at most; none: its whole share
    of the batch. Loss and projector see the whole batch all the same. The encoder computes each
    image twice, and its batch norms use the statistics of the parts (of all workers), so that the
    result depends on this setting."""
    activation_checkpointing: bool = False
    """Keep the inputs of an encoder's blocks alone, and compute each block again in the backward
    pass: less memory, more time. Never changes a result."""
    gradient_dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    """In which type gradients travel between workers. Half of the bytes help where the network
    limits (25 GbE and below); sums are then rounded, and depend on the number of workers."""
    deterministic: bool = False
    """On a GPU: only algorithms that give the same bits each time, so that a continued run equals
    an uninterrupted one bit for bit. Convolutions are then not timed for the fastest algorithm, and
    a step takes longer. CPUs compute the same bits anyway."""
    log_every_steps: int = 10
    """Steps between two lines of metrics."""
    checkpoint_every_epochs: float = 1
    """Epochs between two checkpoints; one is always written at the end."""
    checkpoint_every_minutes: float | None = 15
    """Minutes after a checkpoint at which another is written, even if no such epoch is over; none:
    by epochs alone. Never changes a result."""
    probe_every_epochs: float = 5
    """Epochs between two probes (RankMe, alignment, uniformity, kNN); one is always made before
    and after."""
    keep_best: bool = False
    """Keep the checkpoint with the best score beside the last ones, in the run's folder `best`. The
    score is kNN's accuracy on `data.validation` or, where labels are missing, RankMe × the cosine
    of two views; each probe takes it. Without `data.validation` a part of the training images is
    held out for it and not trained on."""
    patience: int | None = None
    """Probes in a row without a better score after which the run ends, finished; none: it goes to
    its last epoch. The best checkpoint is then kept, too. The same command does not go on after
    that; one with more patience does."""
    average_decay: float | None = None
    """Share, such as 0.999, that a moving average of the encoder's weights keeps of itself at each
    step: it remembers about the last 1 / (1 − decay) steps. It begins as the first weights, is
    probed beside the weights themselves, and kept in each checkpoint; none: there is none."""

    def __post_init__(self) -> None:
        require(self.seed >= 0, f"training.seed={self.seed} must be 0 or above.")
        require_positive(
            "training", self, "log_every_steps", "checkpoint_every_epochs", "probe_every_epochs"
        )
        for name in ("checkpoint_every_minutes", "micro_batch", "patience"):
            if getattr(self, name) is not None:
                require_positive("training", self, name)
        require(
            self.average_decay is None or 0 < self.average_decay < 1,
            f"training.average_decay={self.average_decay} must lie between 0 and 1, such as 0.999.",
        )

    @property
    def selects(self) -> bool:
        """Whether probes are compared by their score, and the best one's checkpoint is kept."""
        return self.keep_best or self.patience is not None


def part_rows(rows: int, micro_batch: int | None) -> tuple[int, ...]:
    """How many of a worker's `rows` images are encoded at a time, part by part, about equally many.

    Args:
      micro_batch: the most; none: all of them.
    """
    num_parts = math.ceil(rows / (micro_batch or rows))
    return tuple(rows // num_parts + (i < rows % num_parts) for i in range(num_parts))


@dataclass(frozen=True, kw_only=True)
class ProbeSettings:
    """The probes of the encoder during training; kNN needs labels, the other measures do not."""

    neighbors: int | None = None
    """k of the weighted k-nearest-neighbour classifier; none: the least of the square root of the
    searched images' number, half the images that a class has of them on average, and 200."""
    temperature: float = 0.1
    """Temperature of its weights, exp(cosine / temperature)."""
    bank_images: int = 50_000
    """Training images whose features are searched, at most, to a whole row group."""
    query_images: int = 10_000
    """Held-out images that are classified, at most, to a whole row group."""

    def __post_init__(self) -> None:
        require_positive("probe", self, "temperature", "bank_images", "query_images")
        if self.neighbors is not None:
            require_positive("probe", self, "neighbors")


@dataclass(frozen=True, kw_only=True)
class ScalingSettings:
    """How much of the cluster a run uses, and what happens when workers are lost."""

    workers: int | str = 1
    """Training workers (W); 0 runs everything in the calling process. A range such as 16..32 takes
    as many as the cluster has room for: fewer when a node goes, more when it is back. Never changes
    a result."""
    grow_minutes: float = 1
    """Minutes that a range's workers train, at least, before more of them take over at a
    checkpoint."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """What a worker computes on; auto: a GPU each if the cluster has any."""
    wait_minutes: float | None = None
    """Minutes to wait for nodes that the run needs, at the start and whenever some were lost; an
    autoscaler is asked for them. None: 15, but a run that a cluster without an autoscaler has no
    room for at the start is refused at once."""
    cpus_per_worker: float = 1
    """Logical CPUs that Ray reserves for each worker."""
    threads_per_worker: int | None = None
    """Threads of a CPU worker's arithmetic; none: the CPUs that may be used there (by
    affinity and cgroup) over its workers."""
    max_failures: int = 3
    """Times in a row that workers are lost without a new checkpoint in between, and replaced; after
    one more the run gives up. All workers that a node takes along are one loss; one that was told
    of beforehand (preemption) is none."""
    collective_timeout_s: int = 600
    """Seconds that workers wait for one that does not join in a sum (NCCL's and gloo's time-out).
    All that one worker does while others wait must be shorter: a checkpoint's way to a slow
    storage, the first batch, the compilation of kernels."""
    max_hours: float | None = None
    """Hours of training after which the run writes a checkpoint and ends; none: no limit. The
    schedule stays that of all `schedule.epochs`: the same command continues where it stopped,
    for as many hours again."""

    def __post_init__(self) -> None:
        least, most = self._range()
        if self.is_elastic:
            require(
                1 <= least <= most,
                f"scaling.workers={self.workers} must begin with 1 or more, and not end with less.",
            )
        require(least >= 0, f"scaling.workers={self.workers} must be 0 or above.")
        require_positive("scaling", self, "cpus_per_worker")
        require_positive("scaling", self, "collective_timeout_s")
        for name in ("threads_per_worker", "max_hours"):
            if getattr(self, name) is not None:
                require_positive("scaling", self, name)
        require(
            self.wait_minutes is None or self.wait_minutes >= 0,
            f"scaling.wait_minutes={self.wait_minutes} must be 0 or above.",
        )
        require(
            self.grow_minutes >= 0,
            f"scaling.grow_minutes={self.grow_minutes} must be 0 or above.",
        )
        require(
            self.max_failures >= 0,
            f"scaling.max_failures={self.max_failures} must be 0 or above.",
        )

    @property
    def min_workers(self) -> int:
        """The number of workers; of a range, the least."""
        return self._range()[0]

    @property
    def max_workers(self) -> int:
        """The number of workers; of a range, the most."""
        return self._range()[1]

    @property
    def is_elastic(self) -> bool:
        """Whether `workers` is a range."""
        return isinstance(self.workers, str)

    def _range(self) -> tuple[int, int]:
        if isinstance(self.workers, int):
            return self.workers, self.workers
        found = re.fullmatch(r"(\d+)\.\.(\d+)", self.workers)
        if found is None:
            raise SettingsError(
                f"scaling.workers={self.workers!r} must be a number such as 4, or a range such as "
                "2..4."
            )
        return int(found[1]), int(found[2])


@dataclass(frozen=True, kw_only=True)
class TrackingSettings:
    """Where a run is recorded."""

    experiment: str = "bt_ray"
    """MLflow experiment that the run is recorded in."""
    registered_model: str | None = None
    """Name in the model registry; none: `barlow-<name of the run>`."""
