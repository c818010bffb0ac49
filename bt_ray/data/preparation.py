"""From a source to shards: tasks that may be cut short, and are done once.

The images lie in the source's own order and are cut into parts of equal size, one a shard; so
what a shard holds depends on the source and the settings alone, and tasks may run anywhere, in
any order, more than once. Each finished task leaves a record, from which another start goes on.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from bt_ray.data.claim import UNFINISHED, Claim, unwritable
from bt_ray.data.job import Job, Treatment
from bt_ray.data.location import locate, public_name, write_whole
from bt_ray.data.manifest import SCHEMA_VERSION, Manifest, Shard
from bt_ray.data.shard_file import fault_of, write_shard_file
from bt_ray.data.sources import Source
from bt_ray.errors import DataError

Task = Callable[[], str]
RunAll = Callable[[Sequence[Task]], Iterator[str]]
Progress = Callable[[str, int, int], None]


def one_after_the_other(tasks: Sequence[Task]) -> Iterator[str]:
    """Runs the tasks in this process."""
    return (task() for task in tasks)


def prepare(job: Job, run_all: RunAll, on_progress: Progress) -> Manifest:
    """Writes what is not there yet of the job's shards, then their manifest."""
    claim = Claim(job.root)
    if (finished := claim.make(job)) is not None:
        return finished
    records = claim.records()
    rejected: list[dict[str, str]] = []
    rows: Sequence[int] = range(len(job.source))
    if job.treatment.on_bad_image == "skip":
        rejected = _check(job, rows, records, run_all, on_progress)
        bad = {image["sample_id"] for image in rejected}
        names = job.source.entries["sample_id"].to_pylist()
        rows = [row for row in rows if names[row] not in bad] if bad else rows
    parts = job.parts(rows)
    tasks = {
        f"shard-{number:05d}": partial(
            _write, job.root, number, part, job.rows_per_row_group, job.treatment
        )
        for number, part in enumerate(parts)
    }
    written = _run(tasks, parts, records, run_all, partial(on_progress, "written"))
    manifest = _manifest(job, written, rows, rejected)
    claim.finish(manifest, rejected_lines(rejected))
    return manifest


def rejected_lines(rejected: Iterable[dict[str, str]]) -> str:
    """The text of the file that lists rejected images."""
    return "".join(json.dumps(image, ensure_ascii=False) + "\n" for image in rejected)


def digest_of(part: Source) -> str:
    """Changes when the part holds other images, or in another order."""
    names = "\n".join(part.entries["sample_id"].to_pylist())
    return hashlib.sha256(names.encode()).hexdigest()


def _run(
    tasks: Mapping[str, Task],
    parts: list[Source],
    records: dict[str, dict[str, Any]],
    run_all: RunAll,
    on_progress: Callable[[int, int], None],
) -> list[dict[str, Any]]:
    """The records of all tasks, in order; those of finished ones are taken, the others run."""
    total = sum(map(len, parts))
    done = {
        name: records[name]
        for name, part in zip(tasks, parts, strict=True)
        if records.get(name, {}).get("entries") == digest_of(part)
    }
    num_done = sum(record["num_images"] for record in done.values())
    on_progress(num_done, total)
    for text in run_all([task for name, task in tasks.items() if name not in done]):
        record = json.loads(text)
        done[record["name"]] = record
        num_done += record["num_images"]
        on_progress(num_done, total)
    return [done[name] for name in tasks]


def _check(
    job: Job,
    rows: Sequence[int],
    records: dict[str, dict[str, Any]],
    run_all: RunAll,
    on_progress: Progress,
) -> list[dict[str, str]]:
    """The images that cannot be decoded, in the order of their ids.

    They are looked for before anything is written, since all row groups but the last must be full.

    Raises: DataError if they are too many.
    """
    parts = job.parts(rows)
    written = {record["entries"] for name, record in records.items() if name.startswith("shard-")}
    parts = [part for part in parts if digest_of(part) not in written]  # those were decoded
    tasks = {f"check-{digest_of(part)[:16]}": partial(_look, job.root, part) for part in parts}
    found = _run(tasks, parts, records, run_all, partial(on_progress, "checked"))
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


def _look(root: str, part: Source) -> str:
    """Decodes the part's images; its record."""
    rejected = [
        {"sample_id": image.sample_id, "source": image.origin, "reason": fault}
        for image in part.read()
        if (fault := fault_of(image.encoded)) is not None
    ]
    return _keep(root, f"check-{digest_of(part)[:16]}", part, {"rejected": rejected})


def _write(
    root: str, number: int, part: Source, rows_per_row_group: int, treatment: Treatment
) -> str:
    """Writes the part's images as a shard; its record."""
    filesystem, path = locate(root)
    name = f"shard-{number:05d}"
    try:
        shard, num_bytes = write_shard_file(
            filesystem,
            f"{path}/{name}.parquet",
            part.read(),
            rows_per_row_group=rows_per_row_group,
            max_side_px=treatment.max_side_px,
            is_checked=treatment.on_bad_image == "skip",
        )
    except OSError as error:
        raise unwritable(public_name(root), error) from error
    return _keep(root, name, part, {"shard": asdict(shard), "num_bytes": num_bytes})


def _keep(root: str, name: str, part: Source, facts: dict[str, Any]) -> str:
    """Keeps a finished task's record, from which another start goes on."""
    record = {"name": name, "entries": digest_of(part), "num_images": len(part), **facts}
    text = json.dumps(record)
    filesystem, path = locate(root)
    try:
        write_whole(filesystem, f"{path}/{UNFINISHED}/{name}.json", text.encode())
    except OSError as error:
        raise unwritable(public_name(root), error) from error
    return text


def _manifest(
    job: Job,
    written: list[dict[str, Any]],
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
