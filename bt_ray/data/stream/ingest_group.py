"""A run's data for Ray Train, cut for the number of workers that a group has when it starts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray.data
from ray.train import DataConfig

from bt_ray.config import Settings
from bt_ray.data.stream.decode import MakeViews, make_views
from bt_ray.data.stream.ingest import build_dataset


@dataclass(frozen=True)
class Steps:
    """Steps `start` to `stop` (exclusive) of a run, before it is known for how many workers."""

    settings: Settings
    start: int
    stop: int
    most_decoders: int | None
    """As for `build_dataset`."""
    make: MakeViews = make_views
    """What makes the columns of a step."""


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
                make=steps.make,
            )
            for name, steps in datasets.items()
        }
        return super().configure(built, world_size, worker_handles, worker_node_ids, **more)
