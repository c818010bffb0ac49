"""COCO's ways to write a mask in JSON, and the run lengths that all of them become."""

import math
from typing import Any

from bt_ray.detection.masks import encode_polygons, encode_runs, read_runs
from bt_ray.errors import DataError

_POINT, _FEWEST_POINTS = 2, 3


def encode_segmentation(segmentation: Any, height: int, width: int, where: str) -> bytes | None:
    """The compressed run lengths of an object's `segmentation`, of an image of this size.

    It is a list of polygons, each a list x, y, x, y, … in pixels; or `size` (height and width) and
    `counts`, run lengths down the columns, as numbers or compressed. Polygons of fewer than three
    points are passed over.

    Args:
      where: what it is the mask of, for messages.
    Returns: None if there is no polygon of three points.
    Raises: DataError if it is none of these, or of another size.
    Source: detectron2, `load_coco_json`, for what is passed over.
    """
    if isinstance(segmentation, list) and segmentation:
        return _encode_polygons(segmentation, height, width, where)
    if isinstance(segmentation, dict) and {"size", "counts"} <= segmentation.keys():
        return _encode_runs(segmentation, height, width, where)
    raise DataError(
        f"{where} has no mask: its segmentation is {str(segmentation)[:40]!r}; add it, or read the "
        "boxes alone."
    )


def _encode_polygons(polygons: list[Any], height: int, width: int, where: str) -> bytes | None:
    for polygon in polygons:
        if not isinstance(polygon, list) or not _are_points(polygon, max(height, width)):
            raise DataError(
                f"{where} has a polygon that is none of its image of {width}×{height} pixels: "
                f"{str(polygon)[:40]} …; each is a list x, y, x, y, … ; mend the annotation."
            )
    whole = [polygon for polygon in polygons if len(polygon) >= _POINT * _FEWEST_POINTS]
    return encode_polygons(whole, height, width) if whole else None


def _are_points(polygon: list[Any], side_px: int) -> bool:
    """Whether these are points in, or at most one image's side away from, the image."""
    if len(polygon) % _POINT:
        return False
    try:
        return not polygon or (
            min(polygon) >= -side_px and max(polygon) <= 2 * side_px and math.isfinite(sum(polygon))
        )
    except TypeError:
        return False


def _encode_runs(segmentation: dict[str, Any], height: int, width: int, where: str) -> bytes:
    size, counts = segmentation["size"], segmentation["counts"]
    if size != [height, width]:
        raise DataError(
            f"{where} has a mask of size {size}, and its image has height {height} and width "
            f"{width}; mend the annotation."
        )
    try:
        runs = counts if isinstance(counts, list) else read_runs(counts.encode())
        fits = all(type(run) is int and run >= 0 for run in runs) and sum(runs) == height * width
    except (AttributeError, IndexError, TypeError, ValueError):
        fits = False
    if not fits:
        raise DataError(
            f"{where} has a mask whose run lengths do not fill its image of {width}×{height} "
            "pixels; it is damaged: mend the annotation."
        )
    return encode_runs(counts, height, width) if isinstance(counts, list) else counts.encode()
