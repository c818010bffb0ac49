"""What a detector found in the images, gathered from all workers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bt_ray.distributed.collectives import gather_bytes, gather_rows


@dataclass(frozen=True, kw_only=True)
class Detections:
    """What was found in one image, in pixels of the image as it is decoded."""

    boxes: NDArray[np.float32]
    """(m, 4): left, top, right and bottom edge; right and bottom are not part of the box."""
    labels: NDArray[np.int64]
    """(m,), 0 to the number of classes − 1."""
    scores: NDArray[np.float32]
    """(m,), the higher, the surer."""
    masks: tuple[bytes, ...] | None = None
    """COCO's compressed run lengths of each mask, of the whole image; none where there are boxes
    alone."""

    def __len__(self) -> int:
        return len(self.labels)


def gather_detections(
    found: Mapping[int, Detections], device: torch.device
) -> dict[int, Detections]:
    """All workers' detections by row of the data set, the same on each, ascending.

    Args:
      found: this worker's, by row; no other worker has the same rows.
      device: where the workers' collective operations take place.
    """
    mine = list(found.values())

    def gather(parts: list[NDArray[Any]], empty: NDArray[Any]) -> NDArray[Any]:
        return _all(np.concatenate([empty, *parts]), device)

    rows = _all(np.array(list(found), np.int64), device)
    counts = _all(np.array([len(one) for one in mine], np.int64), device)
    boxes = gather([one.boxes for one in mine], np.empty((0, 4), np.float32))
    labels = gather([one.labels for one in mine], np.empty(0, np.int64))
    scores = gather([one.scores for one in mine], np.empty(0, np.float32))
    masked = _all(np.array([one.masks is not None for one in mine], np.int64), device)
    masks = iter(gather_bytes([mask for one in mine for mask in one.masks or ()], device))
    stops = np.cumsum(counts)
    gathered = {}
    for row, start, stop, has_masks in zip(rows, stops - counts, stops, masked, strict=True):
        gathered[int(row)] = Detections(
            boxes=boxes[start:stop],
            labels=labels[start:stop],
            scores=scores[start:stop],
            masks=tuple(next(masks) for _ in range(start, stop)) if has_masks else None,
        )
    return dict(sorted(gathered.items()))


def _all(values: NDArray[Any], device: torch.device) -> NDArray[Any]:
    """The rows of all workers' values, in the order of ranks."""
    gathered: Tensor = gather_rows(torch.from_numpy(values).to(device))
    return gathered.cpu().numpy()
