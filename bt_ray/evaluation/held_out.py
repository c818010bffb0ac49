"""A worker's share of the images that a probe looks at, trained on and held out."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import torch

from bt_ray.config import Settings
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.evaluation.images import LabelledImages, ViewPairs, load_images, load_view_pairs
from bt_ray.evaluation.labelled import read_labels

_MOST_PAIRS = 1024


@dataclass(frozen=True)
class HeldOut:
    """A worker's share of images that are not trained on, and their views.

    `pairs`: of the first of the images; none where kNN suffices.
    """

    images: LabelledImages
    pairs: ViewPairs | None = None


@dataclass(frozen=True)
class Share:
    """Reads worker `rank`'s part, of `world_size`, of the first images of some shards."""

    settings: Settings
    device: torch.device
    rank: int
    world_size: int

    def read(self, shards: ShardSet, most: int) -> tuple[LabelledImages, ViewPairs]:
        """Images, and views of the first of them."""
        table = shards.read_share(self.rank, self.world_size, most)
        images = load_images(table, self.settings.views.image_px)
        return images, self._pairs(table, images)

    def hold_out(self, shards: ShardSet, *, by_views: bool) -> HeldOut:
        """Images that are not trained on, with views if they are wanted."""
        most = self.settings.probe.query_images
        table = shards.read_share(self.rank, self.world_size, most)
        images = load_images(table, self.settings.views.image_px)
        return HeldOut(images, self._pairs(table, images) if by_views else None)

    def _pairs(self, table: pa.Table, images: LabelledImages) -> ViewPairs:
        """Views of the first of some images, as many of this worker's as there are."""
        rows = images.rows[images.rows < _MOST_PAIRS].numpy()
        first = table.filter(pc.is_in(table["row"], pa.array(rows)))
        return load_view_pairs(first, self.settings, self.device)


def can_be_told(train: ShardSet, held_out: ShardSet) -> bool:
    """Whether kNN says something of held-out images: all have labels, and of several classes."""
    return all(
        len(shards.manifest.classes) > 1 and is_labelled(shards) for shards in (train, held_out)
    )


def is_labelled(shards: ShardSet) -> bool:
    """Whether all images have labels."""
    return bool((read_labels(shards) >= 0).all())
