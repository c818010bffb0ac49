"""Writes a source as shards: checks the images, copies them if need be, writes, describes.

The images keep the source's order and are cut into parts of equal size, one for each shard. So a
shard's content depends on the source and the settings alone, and tasks may run anywhere, in any
order, more than once.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from bt_ray.config import Pixels
from bt_ray.data.location import locate, public_name
from bt_ray.data.preparation.bad_images import (
    BadImage,
    find_bad,
    keep_bad,
    known_bad,
    refuse_bad,
    refuse_too_many,
    rejected_lines,
    sort,
    whole_images,
)
from bt_ray.data.preparation.claim import REJECTED, Claim
from bt_ray.data.preparation.job import Job, Treatment, name_pixels
from bt_ray.data.preparation.staging import needs_staging, stage
from bt_ray.data.preparation.statistics import Measured, join, measuring, stride_of
from bt_ray.data.preparation.tasks import (
    OnProgress,
    Record,
    RunAll,
    Tasks,
    one_after_the_other,
)
from bt_ray.data.shards.manifest import SCHEMA_VERSION, Manifest, Shard
from bt_ray.data.shards.shard_file import has_more_bits, write_shard_file
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.sources import Source, SourceImage
from bt_ray.data.views.depth import RULE
from bt_ray.data.views.raster import is_turned
from bt_ray.errors import DataError

_log = logging.getLogger(__name__)


def write_shards(
    source: Source,
    root: str,
    *,
    rows_per_row_group: int,
    treatment: Treatment | None = None,
    run_all: RunAll = one_after_the_other,
    on_progress: OnProgress = lambda phase, done, total: None,
    way_out: str = "--on-bad-image skip",
) -> ShardSet:
    """Writes all images of `source` as shards into the folder `root`, or continues to do so.

    Args:
      rows_per_row_group: images of each Parquet row group; only the last one may have fewer.
      treatment: resizing, and what to do about bad images; none: images stay as they are, and
        bad ones end the job once all of them are found.
      run_all: runs the tasks, in this process or on a cluster.
      on_progress: called with the phase, the number of images done, and the number of all.
      way_out: how a user goes on without bad images.
    Returns: the shards, opened.
    Raises: DataError if the folder holds something else, images cannot be decoded, or the
      storage fails; what was read and written by then is kept.
    """
    job = Job(source, root, rows_per_row_group, treatment or Treatment())
    return ShardSet(root, _prepare(job, run_all, on_progress, way_out))


def _prepare(job: Job, run_all: RunAll, on_progress: OnProgress, way_out: str) -> Manifest:
    """Writes the job's missing shards, then their manifest."""
    claim = Claim(job.root, "shards")
    if (told := claim.make(job.facts, source=job.source.name)) is not None:
        return _finished(told, job, claim)
    tasks = Tasks(job.root, claim.records(), run_all, on_progress)
    rejected = known_bad(job, tasks)
    if rejected and job.treatment.on_bad_image == "stop":
        raise refuse_bad(rejected, job, way_out)
    if needs_staging(job):
        job = stage(job, tasks)
    rows: Sequence[int] = range(len(job.source))
    if job.treatment.on_bad_image == "skip":
        if rejected is None:
            rejected = find_bad(job, tasks)
            keep_bad(rejected, job, claim)
        refuse_too_many(rejected, job)
        bad = {image["sample_id"] for image in rejected}
        names = job.source.entries["sample_id"].to_pylist()
        rows = [row for row in rows if names[row] not in bad] if bad else rows
    parts = {f"shard-{number:05d}": part for number, part in enumerate(job.parts(rows))}
    work = partial(_write, job.root, job.rows_per_row_group, job.treatment, stride_of(len(rows)))
    written = tasks.run("written", work, parts)
    if found := sort([image for record in written for image in record.get("rejected", [])]):
        keep_bad(found, job, claim)
        raise refuse_bad(found, job, way_out)
    manifest = _manifest(job, written, rows, rejected or [])
    claim.finish(manifest.to_json(), rejected_lines(rejected or []))
    _remark(job.source.name, manifest, sum(record.get("num_deep", 0) for record in written))
    return manifest


def _remark(name: str, manifest: Manifest, num_deep: int) -> None:
    """Logs what was done about images, once a preparation."""
    if num_deep:
        _log.warning(
            "%s of the images in %s have more than 8 bits a channel, and are brought to 8, each by "
            "itself: %s.", f"{num_deep:,}", name, RULE,
        )  # fmt: skip
    if manifest.num_turned:
        _log.warning("%s: %s", name, manifest.note_on_turned)


def _finished(told: dict[str, Any], job: Job, claim: Claim) -> Manifest:
    """The manifest of finished shards. Raises: DataError if they are another job's."""
    try:
        manifest = Manifest.from_tree(told)
    except (KeyError, TypeError, ValueError) as error:
        raise claim.foreign() from error
    preparation = manifest.preparation
    theirs = {
        "identity": manifest.identity,
        "rows_per_row_group": manifest.rows_per_row_group,
        "max_side_px": preparation.max_side_px if preparation is not None else None,
        "pixels": name_pixels(manifest.pixels),
    }
    claim.refuse_other(theirs, job.facts)
    if manifest.num_rejected and job.treatment.on_bad_image == "stop":
        raise DataError(
            f"{public_name(job.root)!r} holds these shards already, without "
            f"{manifest.num_rejected:,} images that cannot be decoded ({REJECTED}); give "
            "--on-bad-image skip, or repair the images and give a new folder."
        )
    claim.clear()
    return manifest


def _write(
    root: str, rows_per_row_group: int, treatment: Treatment, stride: int, name: str, part: Source
) -> Record:
    """Writes the part's images as a shard; if there are bad ones, finds them all instead."""
    filesystem, path = locate(root)
    file = f"{path}/{name}.parquet"
    found: list[BadImage] = []
    noted, measured, pixels = Noted(), Measured(), treatment.pixels
    images = part.read()
    if treatment.on_bad_image == "stop":  # else they were looked for before
        images = whole_images(images, found, pixels)
    images = measuring(_noting(images, pixels, noted), pixels, stride, measured)
    shard, num_bytes = write_shard_file(
        filesystem,
        file,
        images,
        rows_per_row_group=rows_per_row_group,
        max_side_px=treatment.max_side_px,
        pixels=pixels,
    )
    if found:
        filesystem.delete_file(file)
        return {"rejected": found}
    facts = {"shard": asdict(shard), "num_bytes": num_bytes}
    return facts | asdict(noted) | {"measured": measured.record}


@dataclass
class Noted:
    """Images of a part of which something is to be said."""

    num_deep: int = 0
    """They have more than 8 bits a channel, and are brought to 8."""
    num_turned: int = 0
    """They have a camera's note that they are not upright, and it is ignored."""


def _noting(images: Iterator[SourceImage], pixels: Pixels, noted: Noted) -> Iterator[SourceImage]:
    for image in images:
        noted.num_deep += pixels.bit_depth == 8 and has_more_bits(image.encoded, pixels)
        noted.num_turned += pixels.orientation == "ignored" and is_turned(image.encoded)
        yield image


def _manifest(
    job: Job,
    written: list[Record],
    rows: Sequence[int],
    rejected: list[BadImage],
) -> Manifest:
    source, pixels = job.source, job.treatment.pixels
    labels = source.entries["label"].to_pylist()
    counts = [0] * len(source.classes)
    for row in rows:
        if labels[row] is not None and counts:
            counts[labels[row]] += 1
    lines = rejected_lines(rejected).encode()
    return Manifest(
        schema_version=SCHEMA_VERSION,
        identity=source.identity,
        classes=source.classes,
        num_rows=len(rows),
        num_bytes=sum(record["num_bytes"] for record in written),
        rows_per_row_group=job.rows_per_row_group,
        shards=tuple(Shard(**record["shard"]) for record in written),
        rows_per_class=tuple(counts),
        num_rejected=len(rejected),
        rejected_sha256=hashlib.sha256(lines).hexdigest() if rejected else None,
        preparation=job.preparation,
        channels=pixels.channels,
        bit_depth=pixels.bit_depth,
        orientation=pixels.orientation,
        num_turned=sum(record.get("num_turned", 0) for record in written),
        **join([record["measured"] for record in written if "measured" in record], pixels),
    )
