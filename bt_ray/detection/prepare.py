"""Shards of a detection data set, and its annotations in the order of their rows."""

import logging
import os
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from bt_ray.config import Pixels
from bt_ray.data.location import public_name
from bt_ray.data.preparation.claim import REJECTED
from bt_ray.data.preparation.prepare import write_source
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.sources.folder import Files
from bt_ray.data.sources.found import printable
from bt_ray.data.sources.source import Source, identify, index
from bt_ray.detection.annotations import Annotations
from bt_ray.detection.layouts import Layout
from bt_ray.errors import DataError

_log = logging.getLogger(__name__)
_USUAL = Pixels()


def prepare_layout(
    layout: Layout,
    storage: str,
    *,
    rows_per_row_group: int,
    pixels: Pixels = _USUAL,
    on_bad_image: Literal["stop", "skip"] = "stop",
) -> tuple[str, Annotations]:
    """The shards of the images, below the storage of all runs, and what is in each of their rows.

    The shards are written if they are not there; their rows have an order of their own.

    Args:
      pixels: what images are decoded to; by `orientation` they are turned, and their boxes not.
      on_bad_image: at images that cannot be decoded: stop once all of them are listed, or leave
        them out.
    Raises: DataError if images cannot be decoded and are not left out, or are of another size than
      their annotations say.
    """
    root = write_source(
        _source(layout),
        storage,
        rows_per_row_group=rows_per_row_group,
        pixels=pixels,
        on_bad_image=on_bad_image,
        way_out="--on-bad-image skip",
    )
    shards = ShardSet.open(root)
    table = shards.read_columns(["sample_id", "width", "height"])
    row_of = {printable(name): row for row, name in enumerate(layout.names)}
    rows = [row_of[name] for name in table["sample_id"].to_pylist()]
    if len(rows) < len(layout):
        _log.warning(
            "%s of %s images cannot be decoded, and are left out; they are listed in %s/%s.",
            f"{len(layout) - len(rows):,}", f"{len(layout):,}", public_name(root), REJECTED,
        )  # fmt: skip
    annotations = layout.annotations.take(rows)
    _check_sizes(table, annotations)
    return root, annotations


def _source(layout: Layout) -> Source:
    """The layout's images, without labels."""
    status = [os.stat(file) for file in layout.files]  # noqa: PTH116 - as `sources.folder` does
    facts = [
        f"{name} {known.st_size} {known.st_mtime_ns}"
        for name, known in zip(layout.names, status, strict=True)
    ]
    folder = os.path.commonpath([os.path.dirname(file) for file in layout.files])  # noqa: PTH120
    names = [printable(name) for name in layout.names]
    entries = index(
        names,
        [None] * len(layout),
        path=pa.array(map(os.fsencode, layout.files), pa.binary()),
    )
    num_bytes = sum(known.st_size for known in status) + sum(map(len, names))
    identity = identify(Path(folder).name or "images", [folder, *facts])
    return Source(identity, (), entries, Files("/"), num_bytes, printable(folder))


def _check_sizes(table: pa.Table, annotations: Annotations) -> None:
    """Raises DataError if images are of other sizes than their annotations say."""
    width, height = (table[name].to_numpy() for name in ("width", "height"))
    odd = np.flatnonzero((width != annotations.widths) | (height != annotations.heights))
    if not len(odd):
        return
    first = int(odd[0])
    theirs = int(annotations.widths[first]), int(annotations.heights[first])
    is_turned = theirs == (height[first], width[first])
    turned = (
        "; it seems to lie on its side: the camera's note (EXIF) that turns it is followed by "
        "data.orientation=exif, and not by data.orientation=ignored"
    )
    raise DataError(
        f"{len(odd):,} of {len(annotations):,} images are of other sizes than their annotations "
        f"say, such as {table['sample_id'][first]}: {width[first]}×{height[first]} pixels, and its "
        f"annotation says {theirs[0]}×{theirs[1]}{turned if is_turned else ''}. Boxes would not "
        "fit; mend the annotations, or give the images that they were made of."
    )
