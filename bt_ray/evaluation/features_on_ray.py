"""Features computed by actors of Ray Data, each with the encoder on a device of its own."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import ray
import ray.data
import torch
from numpy.typing import NDArray

from bt_ray.data.preparation.parallel import connect
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.evaluation.features import (
    Encoded,
    Features,
    encode_groups,
    group_runs,
    join,
    place_encoder,
)
from bt_ray.model.pretrained import Pretrained

_CPUS_PER_ACTOR = 0.5  # logical; leaves Ray Data's own tasks room on a machine of two
_MOST_WAITING = 4


class _Encoder:
    """Encodes the row groups that it is given the numbers of."""

    def __init__(self, held: list[ray.ObjectRef[Pretrained]], shards: ShardSet) -> None:
        # In a list, so that Ray hands over the reference: an actor can then be started again.
        pretrained = ray.get(held[0])
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._encoder = place_encoder(pretrained, self._device)
        self._settings, self._shards = pretrained.settings, shards

    def __call__(self, batch: dict[str, NDArray[Any]]) -> Iterator[dict[str, NDArray[Any]]]:
        for first, stop in zip(batch["first"], batch["stop"], strict=True):
            groups = np.arange(first, stop)
            found = encode_groups(self._encoder, self._shards, groups, self._settings, self._device)
            yield vars(found)


def compute_on_ray(
    pretrained: Pretrained,
    shards: ShardSet,
    device: torch.device,
    on_progress: Callable[[int], None] = lambda done: None,
    *,
    workers: int,
) -> Features:
    """The same as `features.compute_features`, by `workers` actors.

    Args:
      device: of the caller, for which it changes nothing: an actor takes a GPU if the cluster has
        one for each.
    Raises: DataError if shards are missing or damaged.
    """
    connect(workers)
    num_gpus = 1 if ray.cluster_resources().get("GPU", 0) >= workers else 0
    pretrained.encoder.cpu()
    runs = [{"first": int(run[0]), "stop": int(run[-1]) + 1} for run in group_runs(shards)]
    encoded: ray.data.Dataset = ray.data.from_items(
        runs, override_num_blocks=len(runs)
    ).map_batches(
        _Encoder,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(
            size=workers, max_tasks_in_flight_per_actor=_MOST_WAITING
        ),
        num_cpus=_CPUS_PER_ACTOR if num_gpus == 0 else None,
        num_gpus=num_gpus or None,
        fn_constructor_args=([ray.put(pretrained)], shards),
    )
    parts, done = [], 0
    for batch in encoded.iter_batches(batch_size=None, batch_format="numpy"):
        parts.append(Encoded(**batch))
        done += len(parts[-1].labels)
        on_progress(done)
    return join(parts, shards.manifest.classes)
