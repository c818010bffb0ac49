"""Writes a source as shards: checks the images, copies them if need be, writes, describes.

The images keep the source's order and are cut into parts of equal size, one for each shard. So a
shard's content depends on the source and the settings alone, and tasks may run anywhere, in any
order, more than once.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from bt_ray.data.location import locate, public_name
from bt_ray.data.preparation.claim import REJECTED, Claim
from bt_ray.data.preparation.job import Job, Treatment
from bt_ray.data.preparation.staging import needs_staging, stage
from bt_ray.data.preparation.tasks import (
    OnProgress,
    Record,
    RunAll,
    Tasks,
    digest_of,
    one_after_the_other,
)
from bt_ray.data.shards.manifest import SCHEMA_VERSION, Manifest, Shard
from bt_ray.data.shards.shard_file import fault_of, write_shard_file
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.sources import Source
from bt_ray.errors import DataError


def write_shards(
    source: Source,
    root: str,
    *,
    rows_per_row_group: int,
    treatment: Treatment | None = None,
    run_all: RunAll = one_after_the_other,
    on_progress: OnProgress = lambda phase, done, total: None,
) -> ShardSet:
    """Writes all images of `source` as shards into the folder `root`, or continues to do so.

    Args:
      rows_per_row_group: images of each Parquet row group; only the last one may have fewer.
      treatment: resizing, and what to do about bad images; none: images stay as they are, and a
        bad one ends the job.
      run_all: runs the tasks, in this process or on a cluster.
      on_progress: called with the phase, the number of images done, and the number of all.
    Returns: the shards, opened.
    Raises: DataError if the folder holds something else, an image cannot be decoded, or the
      storage fails; shards that are finished by then are kept.
    """
    job = Job(source, root, rows_per_row_group, treatment or Treatment())
    return ShardSet(root, _prepare(job, run_all, on_progress))


def _prepare(job: Job, run_all: RunAll, on_progress: OnProgress) -> Manifest:
    """Writes the job's missing shards, then their manifest."""
    claim = Claim(job.root, "shards")
    if (told := claim.make(job.facts)) is not None:
        return _finished(told, job, claim)
    tasks = Tasks(job.root, claim.records(), run_all, on_progress)
    if needs_staging(job):
        job = stage(job, tasks)
    rejected: list[dict[str, str]] = []
    rows: Sequence[int] = range(len(job.source))
    if job.treatment.on_bad_image == "skip":
        rejected = _check(job, tasks)
        bad = {image["sample_id"] for image in rejected}
        names = job.source.entries["sample_id"].to_pylist()
        rows = [row for row in rows if names[row] not in bad] if bad else rows
    parts = {f"shard-{number:05d}": part for number, part in enumerate(job.parts(rows))}
    work = partial(_write, job.root, job.rows_per_row_group, job.treatment)
    written = tasks.run("written", work, parts)
    manifest = _manifest(job, written, rows, rejected)
    claim.finish(manifest.to_json(), rejected_lines(rejected))
    return manifest


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


def rejected_lines(rejected: Iterable[dict[str, str]]) -> str:
    """The text of the file that lists rejected images."""
    return "".join(json.dumps(image, ensure_ascii=False) + "\n" for image in rejected)


def _check(job: Job, tasks: Tasks) -> list[dict[str, str]]:
    """The images that cannot be decoded, sorted by id.

    They are found before anything is written, since all row groups but the last must be full.

    Raises: DataError if there are more than the treatment allows.
    """
    records = tasks.records.items()
    decoded = {record["entries"] for name, record in records if name.startswith("shard-")}
    parts = {
        f"check-{digest[:16]}": part
        for part in job.parts(range(len(job.source)))
        if (digest := digest_of(part)) not in decoded
    }
    found = tasks.run("checked", _look, parts)
    rejected = [image for record in found for image in record["rejected"]]
    rejected.sort(key=lambda image: str(image["sample_id"]))
    if len(rejected) > job.treatment.max_bad_rate * len(job.source):
        first = rejected[0]
        raise DataError(
            f"{len(rejected):,} of {len(job.source):,} images cannot be decoded, more than "
            f"--max-bad-rate {job.treatment.max_bad_rate:g} allows; the first is "
            f"{first['sample_id']!r} ({first['reason']}). Repair the source, or raise the rate."
        )
    if len(rejected) == len(job.source):
        raise DataError(f"No image of {job.source.name} can be decoded.")
    return rejected


def _look(_: str, part: Source) -> Record:
    """Decodes the part's images; records those that cannot be decoded."""
    rejected = [
        {"sample_id": image.sample_id, "source": image.origin, "reason": fault}
        for image in part.read()
        if (fault := fault_of(image.encoded)) is not None
    ]
    return {"rejected": rejected}


def _write(
    root: str, rows_per_row_group: int, treatment: Treatment, name: str, part: Source
) -> Record:
    """Writes the part's images as a shard."""
    filesystem, path = locate(root)
    shard, num_bytes = write_shard_file(
        filesystem,
        f"{path}/{name}.parquet",
        part.read(),
        rows_per_row_group=rows_per_row_group,
        max_side_px=treatment.max_side_px,
        is_checked=treatment.on_bad_image == "skip",
    )
    return {"shard": asdict(shard), "num_bytes": num_bytes}


def _manifest(
    job: Job,
    written: list[Record],
    rows: Sequence[int],
    rejected: list[dict[str, str]],
) -> Manifest:
    source = job.source
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
    )
