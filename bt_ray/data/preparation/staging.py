"""Copies images out of large compressed blocks, so that each can be read alone.

A shard takes images from all over the source. From Parquet, each shard would read every row group
again. So, if there are many shards, the images are first copied in one pass, unchanged, into files
beside the shards; these files are removed at the end.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa

from bt_ray.data.location import locate
from bt_ray.data.preparation.claim import UNFINISHED
from bt_ray.data.preparation.job import Job
from bt_ray.data.preparation.tasks import Record, Tasks
from bt_ray.data.sources.ranges import Ranges
from bt_ray.data.sources.source import Source

_MOST_REREADS = 4


def needs_staging(job: Job) -> bool:
    """Whether the job's shards would read its source more than a few times over."""
    return bool(job.source.stored_order) and len(job.source) > _MOST_REREADS * job.rows_per_shard


def stage(job: Job, tasks: Tasks) -> Job:
    """Copies the images; the job with a source of the same images that reads the copies."""
    parts = blocks(job.source, job.rows_per_shard)
    named = {f"stage-{number:05d}": part for number, part in enumerate(parts)}
    records = tasks.run("copied", partial(_copy, job.root), named)
    sizes = [np.array(record["sizes"], np.int64) for record in records]
    _, path = locate(job.root)
    places = pa.table({
        "sample_id": pa.concat_tables([part.entries.select(["sample_id"]) for part in parts])[0],
        "archive": np.repeat(np.arange(len(parts)), [len(part) for part in parts]),
        "offset": np.concatenate([np.cumsum(some) - some for some in sizes]),
        "size": np.concatenate(sizes),
    })  # fmt: skip
    entries = job.source.entries
    position = {name: row for row, name in enumerate(places["sample_id"].to_pylist())}
    order = pa.array([position[name] for name in entries["sample_id"].to_pylist()])
    for name in ("archive", "offset", "size"):
        entries = entries.append_column(name, places[name].take(order))
    files = tuple(f"{path}/{UNFINISHED}/{name}.bin" for name in named)
    source = replace(job.source, entries=entries, reader=Ranges(job.root, files), stored_order=())
    return replace(job, source=source)


def blocks(source: Source, size: int) -> list[Source]:
    """Parts of the source, in stored order, of whole blocks and at least `size` images each.

    The last part may have fewer.
    """
    order = source.stored_order
    rows = source.entries.select(order).append_column("at", pa.array(range(len(source))))
    rows = rows.sort_by([(name, "ascending") for name in order])
    blocks = np.stack([rows[name].to_numpy() for name in order[:-1]])
    cuts = [0]
    for start in np.flatnonzero((np.diff(blocks) != 0).any(axis=0)) + 1:
        if start - cuts[-1] >= size:
            cuts.append(int(start))
    numbers = rows["at"].to_pylist()
    ends = [*cuts[1:], len(numbers)]
    return [source.take(numbers[a:b]) for a, b in zip(cuts, ends, strict=True)]


def _copy(root: str, name: str, part: Source) -> Record:
    """Writes the part's images one after the other; records the size of each in bytes."""
    filesystem, path = locate(root)
    sizes = []
    with filesystem.open_output_stream(f"{path}/{UNFINISHED}/{name}.bin") as stream:
        for image in part.read():
            stream.write(image.encoded)
            sizes.append(len(image.encoded))
    return {"sizes": sizes}
