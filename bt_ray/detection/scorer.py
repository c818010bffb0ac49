"""A detector's scores on test images, which all workers share."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import paste_masks_in_image

from bt_ray.config import Settings
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.decode import operations
from bt_ray.detection.annotations import Annotations
from bt_ray.detection.detections import Detections, gather_detections
from bt_ray.detection.masks import encode_mask
from bt_ray.detection.metrics import coco_scores
from bt_ray.detection.protocols import DetectionProtocol
from bt_ray.detection.scenes import SceneParameters, apply_scene, still_scenes
from bt_ray.detection.voc_rule import THRESHOLDS, voc_scores
from bt_ray.distributed.collectives import all_reduce_sum
from bt_ray.methods.learner import Probing
from bt_ray.model.inputs import to_input
from bt_ray.precision import autocast

_log = logging.getLogger(__name__)

_BATCH = 4
_MULTIPLE_PX = 32
"""Of the sides of a batch, as of the canvas in training."""
_THREADS = 2
_PASTED_AT_ONCE = 8  # masks, in single precision and the image's size
_BOX_SCORES = ("ap", "ap50", "ap75")


@dataclass(frozen=True)
class DetectionScorer:
    """Scores a detector on `data.test`, each worker on every `world_size`-th row group.

    Images of like size are a batch; which ones are depends on the data alone, so that any number of
    workers finds the same. The images are read anew each time.
    """

    settings: Settings
    protocol: DetectionProtocol
    annotations: Annotations
    """Of the test images, in the order of the shards' rows."""
    device: torch.device
    rank: int = 0
    world_size: int = 1

    @torch.no_grad()
    def __call__(self, detector: nn.Module) -> Probing:
        """By COCO's rule `test/ap`, `test/ap50`, `test/ap75`, the same of masks if it predicts any.

        By VOC's `test/voc_ap50`, the area, and, of 11 points, `test/voc07_ap50`, `test/voc07_ap75`
        and `test/voc07_ap`, their mean over COCO's thresholds: what Table 4 shows of VOC. Images
        that cannot be decoded are left out, with their objects. The detector is as it was.
        """
        with _as_it_was(detector, self.device):
            mine = dict(self._found(detector))
        found = gather_detections(mine, self.device)
        scores = torch.zeros(len(self._names), dtype=torch.float64)
        if self.rank == 0:
            scores += torch.tensor(self._scores(found), dtype=torch.float64)
        told = all_reduce_sum(scores.to(self.device)).tolist()
        return Probing(measures=dict(zip(self._names, told, strict=True)))

    @property
    def _names(self) -> list[str]:
        names = [*_BOX_SCORES, "voc_ap50", "voc07_ap", "voc07_ap50", "voc07_ap75"]
        names += [f"mask_{name}" for name in _BOX_SCORES if self.protocol.masks]
        return [f"test/{name}" for name in names]

    def _scores(self, found: dict[int, Detections]) -> list[float]:
        """Of each name, the score."""
        detections, objects = list(found.values()), [self.annotations[row] for row in found]
        compared = (detections, objects, len(self.annotations.classes))
        boxes = coco_scores(*compared)
        area = voc_scores(*compared, year=2010, thresholds=[0.5])
        points = dict(zip(THRESHOLDS, voc_scores(*compared, year=2007), strict=True))
        scores = [*(boxes[name] for name in _BOX_SCORES), *area]
        scores += [float(np.mean(list(points.values()))), points[0.5], points[0.75]]
        if self.protocol.masks:
            masks = coco_scores(*compared, masks=True)
            scores += [masks[name] for name in _BOX_SCORES]
        return scores

    def _found(self, detector: nn.Module) -> Iterator[tuple[int, Detections]]:
        """What the detector finds in each image of this worker, by row."""
        shards = ShardSet.open(str(self.settings.data.test))
        manifest = shards.manifest
        num_groups = -(-manifest.num_rows // manifest.rows_per_row_group)
        seen = unreadable = 0
        for group in range(self.rank, num_groups, self.world_size):
            table = shards.read(np.array([group]))
            widths, heights = (table[name].to_numpy() for name in ("width", "height"))
            scenes = still_scenes(self.protocol.scaling, widths, heights)
            seen += len(table)
            for batch in _batches(scenes):
                images = self._decoded(table, batch)
                unreadable += len(batch) - len(images)
                if images:
                    found = self._detect(detector, images, scenes)
                    rows = table["row"].to_numpy()[list(images)].tolist()
                    yield from zip(rows, found, strict=True)
        if unreadable:
            _log.warning(
                "%d of %d images cannot be decoded and are left out of the evaluation, with their "
                "objects.",
                unreadable,
                seen,
            )

    def _decoded(self, table: pa.Table, places: Sequence[int]) -> dict[int, NDArray[Any]]:
        """The images (h, w, c) at these places of the table, but those that cannot be decoded."""
        decode = operations(self.settings)[0]

        def levels(place: int) -> NDArray[Any] | None:
            try:
                return np.asarray(decode(table["image"][place].as_buffer()))
            except OSError:
                return None

        with ThreadPoolExecutor(_THREADS) as pool:
            images = zip(places, pool.map(levels, places), strict=True)
            return {place: image for place, image in images if image is not None}

    def _detect(
        self, detector: nn.Module, images: dict[int, NDArray[Any]], scenes: SceneParameters
    ) -> list[Detections]:
        """What is found in each image, which has its scene's number."""
        sizes = [(int(scenes.heights[place]), int(scenes.widths[place])) for place in images]
        height, width = (_rounded(max(sides)) for sides in zip(*sizes, strict=True))
        data = self.settings.data
        canvases = np.zeros((len(images), data.channels, height, width), data.pixels.dtype)
        for canvas, (place, image) in zip(canvases, images.items(), strict=True):
            apply_scene(image, scenes, place, canvas)
        levels = to_input(torch.from_numpy(canvases).to(self.device), self.settings)
        with autocast(self.settings.training, self.device):
            found = detector(levels, sizes, None)
        return [
            _in_pixels(one, size, image.shape[:2], with_masks=self.protocol.masks)
            for one, size, image in zip(found, sizes, images.values(), strict=True)
        ]


def _batches(scenes: SceneParameters) -> Iterator[list[int]]:
    """Numbers of scenes whose sides are alike up to the multiple, a few at a time."""
    sizes = [(_rounded(h), _rounded(w)) for h, w in zip(scenes.heights, scenes.widths, strict=True)]
    numbers = sorted(range(len(sizes)), key=lambda number: sizes[number])
    for _, alike in groupby(numbers, key=lambda number: sizes[number]):
        rest = list(alike)
        yield from (rest[first : first + _BATCH] for first in range(0, len(rest), _BATCH))


def _rounded(side_px: int) -> int:
    return -(-int(side_px) // _MULTIPLE_PX) * _MULTIPLE_PX


def _in_pixels(
    found: Mapping[str, Tensor], size: Sequence[int], image: Sequence[int], *, with_masks: bool
) -> Detections:
    """What was found in a scene, in pixels of its image.

    Args:
      found: `boxes` (m, 4), `labels` (m,) from 1 on, `scores` (m,) and perhaps `masks`
        (m, 1, M, M), shares of each box's cells.
      size, image: height and width of the scene, and of the image.
    """
    boxes = found["boxes"].float().cpu()
    (height, width), (scene_height, scene_width) = image, size
    boxes = boxes * torch.tensor([width / scene_width, height / scene_height] * 2)
    boxes = boxes.minimum(torch.tensor([width, height] * 2)).clamp(min=0)
    return Detections(
        boxes=boxes.numpy(),
        labels=found["labels"].cpu().numpy() - 1,
        scores=found["scores"].float().cpu().numpy(),
        masks=_pasted(found["masks"].float().cpu(), boxes, height, width) if with_masks else None,
    )


def _pasted(masks: Tensor, boxes: Tensor, height: int, width: int) -> tuple[bytes, ...]:
    """The masks (m, 1, M, M) in the whole image, where their share is above a half."""
    encoded = []
    for part, around in zip(
        masks.split(_PASTED_AT_ONCE), boxes.split(_PASTED_AT_ONCE), strict=True
    ):
        whole = paste_masks_in_image(part, around, (height, width)) > 0.5
        encoded += [encode_mask(mask.numpy().view(np.uint8)) for mask in whole[:, 0]]
    return tuple(encoded)


@contextmanager
def _as_it_was(module: nn.Module, device: torch.device) -> Iterator[None]:
    """The module in eval mode; afterwards each part's mode and torch's random state are as before.

    Frozen batch norm may be in eval mode within a module that is trained.
    """
    trained = [part for part in module.modules() if part.training]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        module.eval()
        try:
            yield
        finally:
            for part in trained:
                part.training = True
