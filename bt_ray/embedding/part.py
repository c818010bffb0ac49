"""Turns a part of the images into a Parquet file of vectors."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from bt_ray.config import Settings
from bt_ray.data.location import locate
from bt_ray.data.preparation.tasks import Record
from bt_ray.data.shards.manifest import Shard
from bt_ray.data.shards.shard_file import Checksum, reason
from bt_ray.data.sources import Source, SourceImage
from bt_ray.data.views.fast import decode
from bt_ray.data.views.raster import Levels, central_view
from bt_ray.data.views.reference import central
from bt_ray.embedding.encoder import Computation, load_encoder
from bt_ray.embedding.manifest import columns

_ROWS_PER_ROW_GROUP = 1024
_BATCHES_AHEAD = 2

Decoded = list[tuple[SourceImage, Levels | str]]
"""Images, each with its central view (px, px, c), or with the reason why it has none."""


def write_part(root: str, digest: str, computation: Computation, name: str, part: Source) -> Record:
    """Writes the vectors of the part's images to a file.

    Args:
      root: the folder of all vectors, with their encoder.
      digest: the digest of that encoder's weights.
      name: the file's name, without suffix.
    Returns: the task's record: the file, and the images that cannot be decoded.
    """
    encoder = load_encoder(root, digest, computation)
    images: list[SourceImage] = []
    vectors: list[NDArray[np.float32]] = []
    rejected = []
    for batch in decode_batches(part.read(), encoder.settings, computation):
        good = [(image, view) for image, view in batch if not isinstance(view, str)]
        if good:
            images += [image for image, _ in good]
            vectors.append(encoder([view for _, view in good]))
        rejected += [
            {"sample_id": image.sample_id, "source": image.origin, "reason": view}
            for image, view in batch
            if isinstance(view, str)
        ]
    file = _write(root, f"{name}.parquet", _table(images, vectors)) if images else None
    return {"file": None if file is None else asdict(file), "rejected": rejected}


def decode_batches(
    images: Iterator[SourceImage], settings: Settings, computation: Computation
) -> Iterator[Decoded]:
    """Yields the images in batches, decoded; several threads decode up to two batches ahead."""

    def take() -> list[SourceImage]:
        return list(islice(images, computation.batch_size))

    if computation.threads == 1:
        while group := take():
            yield [(image, view_of(image.encoded, settings)) for image in group]
        return
    waiting: deque[list[tuple[SourceImage, Future[Levels | str]]]] = deque()
    with ThreadPoolExecutor(computation.threads + 1) as pool:  # one of them reads
        coming = pool.submit(take)
        while group := coming.result():
            coming = pool.submit(take)
            waiting.append([(i, pool.submit(view_of, i.encoded, settings)) for i in group])
            if len(waiting) > _BATCHES_AHEAD:
                yield [(image, view.result()) for image, view in waiting.popleft()]
        for batch in waiting:
            yield [(image, view.result()) for image, view in batch]


def view_of(encoded: bytes, settings: Settings) -> Levels | str:
    """The central view (px, px, c) of an image, or the reason why it cannot be decoded."""
    try:
        if not settings.data.pixels.is_usual:
            return central_view(encoded, settings)
        image = Image.fromarray(decode(encoded))  # JPEGs in half of the time
        return np.asarray(central(image, settings.views.image_px))
    except OSError as error:
        return reason(error)


def _table(images: list[SourceImage], vectors: list[NDArray[np.float32]]) -> pa.Table:
    stacked = np.concatenate(vectors)
    num_features = stacked.shape[1]
    return pa.table(
        [
            pa.array([image.sample_id for image in images], pa.string()),
            pa.array([image.origin for image in images], pa.string()),
            pa.array([image.class_name for image in images], pa.string()),
            pa.FixedSizeListArray.from_arrays(pa.array(stacked.reshape(-1)), num_features),
        ],
        schema=columns(num_features),
    )


def _write(root: str, name: str, table: pa.Table) -> Shard:
    filesystem, path = locate(root)
    with filesystem.open_output_stream(f"{path}/{name}") as stream:
        checked = Checksum(stream)
        pq.write_table(
            table,
            checked,
            row_group_size=_ROWS_PER_ROW_GROUP,
            use_dictionary=["class_name"],
            compression="none",
            write_page_checksum=True,
        )
    return Shard(
        file=name,
        num_rows=table.num_rows,
        sha256=checked.digest.hexdigest(),
        num_bytes=checked.tell(),
    )
