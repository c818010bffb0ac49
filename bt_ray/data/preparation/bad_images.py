"""Images that cannot be decoded: all are found, listed in a file, and named in a sentence."""

import json
import math
from collections.abc import Iterable, Iterator
from functools import partial

from bt_ray.config import Pixels
from bt_ray.data.location import public_name
from bt_ray.data.preparation.claim import REJECTED, Claim
from bt_ray.data.preparation.job import Job
from bt_ray.data.preparation.tasks import Record, Tasks, digest_of
from bt_ray.data.shards.shard_file import fault_of
from bt_ray.data.sources import Source, SourceImage
from bt_ray.errors import DataError

BadImage = dict[str, str]
"""`sample_id`, `source` (where in the source it lay) and `reason`."""

_RECORD = "bad-images"
_MOST_NAMED = 10


def whole_images(
    images: Iterable[SourceImage], found: list[BadImage], pixels: Pixels
) -> Iterator[SourceImage]:
    """The images up to the first bad one; those behind it are looked at, too, and not yielded.

    Args:
      pixels: what they are to be decoded to.
      found: bad images are added to it.
    """
    for image in images:
        if (fault := fault_of(image.encoded, pixels)) is not None:
            found.append({"sample_id": image.sample_id, "source": image.origin, "reason": fault})
        elif not found:
            yield image


def known_bad(job: Job, tasks: Tasks) -> list[BadImage] | None:
    """The bad images of the source if all of it was looked at in an earlier go; else None."""
    record = tasks.records.get(_RECORD, {})
    return record["rejected"] if record.get("entries") == digest_of(job.source) else None


def find_bad(job: Job, tasks: Tasks) -> list[BadImage]:
    """The source's bad images, sorted by id; parts that were looked at before are not read again.

    They are found before anything is written, since all row groups but the last must be full.
    """
    seen = {
        record["entries"]: record.get("rejected", [])
        for name, record in tasks.records.items()
        if name.startswith("shard-")
    }
    parts = job.parts(range(len(job.source)))
    digests = [digest_of(part) for part in parts]
    unseen = {
        f"check-{digest[:16]}": part
        for digest, part in zip(digests, parts, strict=True)
        if digest not in seen
    }
    looked = tasks.run("checked", partial(_look, job.treatment.pixels), unseen)
    found = [image for record in looked for image in record["rejected"]]
    return sort(found + [image for digest in digests for image in seen.get(digest, [])])


def _look(pixels: Pixels, _: str, part: Source) -> Record:
    """Decodes the part's images; records those that cannot be decoded."""
    found: list[BadImage] = []
    for _image in whole_images(part.read(), found, pixels):
        pass
    return {"rejected": found}


def keep_bad(found: list[BadImage], job: Job, claim: Claim) -> None:
    """Keeps the bad images of the whole source, so that the next go need not look for them."""
    claim.keep(_RECORD, {"entries": digest_of(job.source), "num_images": 0, "rejected": found})
    claim.list_rejected(rejected_lines(found))


def refuse_bad(found: list[BadImage], job: Job, way_out: str) -> DataError:
    """The error for images that cannot be decoded and are not to be left out.

    Args:
      way_out: how to go on without them.
    """
    if len(found) == 1:
        return DataError(
            f"{found[0]['sample_id']!r} cannot be decoded ({found[0]['reason']}); remove or repair "
            f"it, or go on without it: {way_out}. What was read is kept."
        )
    named = [f"{bad['sample_id']!r} ({bad['reason']})" for bad in found[1:_MOST_NAMED]]
    more = f" and {len(found) - _MOST_NAMED:,} more" if len(found) > _MOST_NAMED else ""
    return DataError(
        f"{len(found):,} of {len(job.source):,} images in {job.source.name} are broken: "
        f"{found[0]['sample_id']!r} cannot be decoded ({found[0]['reason']}), nor can "
        f"{', '.join(named)}{more}. All are listed in {public_name(job.root)}/{REJECTED}. Remove "
        f"or repair them, or go on without them: {way_out}. What was read is kept."
    )


def refuse_too_many(found: list[BadImage], job: Job) -> None:
    """Raises DataError if there are more bad images than the treatment allows to leave out."""
    num_images, rate = len(job.source), job.treatment.max_bad_rate
    if found and len(found) > rate * num_images:
        enough = math.ceil(100 * len(found) / num_images) / 100
        raise DataError(
            f"{len(found):,} of {num_images:,} images cannot be decoded, more than "
            f"--max-bad-rate {rate:g} allows; the first is {found[0]['sample_id']!r} "
            f"({found[0]['reason']}), and all are listed in {public_name(job.root)}/{REJECTED}. "
            f"Repair the source, or raise the rate: `python -m pipelines.prepare` takes "
            f"--max-bad-rate {enough:g}."
        )
    if len(found) == num_images:
        raise DataError(f"No image of {job.source.name} can be decoded.")


def sort(found: list[BadImage]) -> list[BadImage]:
    """In the order of their ids."""
    return sorted(found, key=lambda image: str(image["sample_id"]))


def rejected_lines(rejected: Iterable[BadImage]) -> str:
    """The text of the file that lists rejected images."""
    return "".join(json.dumps(image, ensure_ascii=False) + "\n" for image in rejected)
