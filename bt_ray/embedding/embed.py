"""Turns a source and an encoder into a folder of vectors: Parquet files and a manifest.

The images are cut into parts in the order in which the source stores them; each part becomes a
file. So a file's content depends on the source and the settings alone, and any number of workers
may do the parts in any order. A restart skips finished files.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow.compute as pc

from bt_ray.data.preparation.bad_images import rejected_lines
from bt_ray.data.preparation.claim import Claim
from bt_ray.data.preparation.staging import blocks
from bt_ray.data.preparation.tasks import OnProgress, Record, RunAll, Tasks
from bt_ray.data.shards.manifest import Shard
from bt_ray.data.sources import Source
from bt_ray.embedding.encoder import Computation, keep_encoder
from bt_ray.embedding.manifest import KIND, SCHEMA_VERSION, EmbeddingManifest, EncoderFacts
from bt_ray.embedding.part import write_part
from bt_ray.errors import DataError, SettingsError
from bt_ray.evaluation.features import fingerprint
from bt_ray.model.pretrained import Pretrained

_FEWEST_ROWS, _MOST_ROWS, _USUAL_FILES = 64, 4096, 64


@dataclass(frozen=True)
class EmbeddingJob:
    """The images, the encoder, and the folder `root` for the vectors.

    `reference` is the name that the user gave the encoder by; `run_id` is the MLflow run that
    trained it, if known.
    """

    source: Source
    root: str
    pretrained: Pretrained
    reference: str
    run_id: str | None
    computation: Computation
    rows_per_file: int

    def __post_init__(self) -> None:
        if self.rows_per_file < 1:
            raise SettingsError(f"rows_per_file={self.rows_per_file} must be at least 1.")
        if self.computation.batch_size < 1:
            raise SettingsError(f"batch_size={self.computation.batch_size} must be at least 1.")

    def encoder_facts(self) -> EncoderFacts:
        """The encoder's description in the manifest."""
        settings = self.pretrained.settings
        return EncoderFacts(
            reference=self.reference,
            run_id=self.run_id,
            digest=fingerprint(self.pretrained.encoder),
            architecture=settings.model.encoder,
            image_px=settings.views.image_px,
            num_features=self.pretrained.num_features,
            precision=self.computation.precision,
        )


def usual_rows_per_file(num_images: int) -> int:
    """The default: 64 files, but at least 64 and at most 4096 images in each.

    So workers can share a small set, and its progress is visible.
    """
    return min(_MOST_ROWS, max(_FEWEST_ROWS, -(-num_images // _USUAL_FILES)))


def embed(job: EmbeddingJob, run_all: RunAll, on_progress: OnProgress) -> EmbeddingManifest:
    """Writes the job's missing files, then their manifest.

    Args:
      run_all: runs the tasks, in this process or on a cluster.
      on_progress: called with the phase, the number of images done, and the number of all.
    Raises: DataError if the folder holds something else, vectors of other images or of another
      encoder, if no image can be decoded, or if the storage fails; finished files are kept.
    """
    encoder = job.encoder_facts()
    claim = Claim(job.root, "vectors")
    facts = _facts(job.source.identity, encoder, job.rows_per_file)
    if (told := claim.make(facts)) is not None:
        return _finished(told, facts, claim)
    keep_encoder(job.root, job.pretrained)
    tasks = Tasks(job.root, claim.records(), run_all, on_progress)
    parts = {f"part-{number:06d}": part for number, part in enumerate(_parts(job))}
    work = partial(write_part, job.root, encoder.digest, job.computation)
    records = tasks.run("embedded", work, parts)
    lines = rejected_lines(image for record in records for image in record["rejected"])
    manifest = _manifest(job, encoder, records, lines)
    claim.finish(manifest.to_json(), lines)
    return manifest


def _facts(identity: str, encoder: EncoderFacts, rows_per_file: int) -> dict[str, Any]:
    """What distinguishes the job's vectors from others."""
    return {
        "identity": identity,
        "encoder": encoder.digest,
        "image_px": encoder.image_px,
        "precision": encoder.precision,
        "rows_per_file": rows_per_file,
    }


def _finished(told: dict[str, Any], facts: dict[str, Any], claim: Claim) -> EmbeddingManifest:
    """The manifest of finished vectors. Raises: DataError if they are another job's."""
    try:
        manifest = EmbeddingManifest.from_tree(told)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise claim.foreign() from error
    theirs = _facts(manifest.identity, manifest.encoder, manifest.rows_per_file)
    claim.refuse_other(theirs, facts)
    claim.clear()
    return manifest


def _parts(job: EmbeddingJob) -> list[Source]:
    """The images in stored order, which is read forwards, cut into parts of one file each."""
    source, size = job.source, job.rows_per_file
    if source.stored_order:
        return blocks(source, size)
    order = [name for name in ("archive", "offset") if name in source.entries.column_names]
    sorting = [(name, "ascending") for name in order or ["sample_id"]]
    rows = source.entries.select([name for name, _ in sorting])
    numbers = pc.sort_indices(rows, sort_keys=sorting).to_pylist()
    return [source.take(numbers[i : i + size]) for i in range(0, len(numbers), size)]


def _manifest(
    job: EmbeddingJob, encoder: EncoderFacts, records: list[Record], lines: str
) -> EmbeddingManifest:
    files = tuple(Shard(**record["file"]) for record in records if record["file"] is not None)
    if not files:
        first = json.loads(lines.partition("\n")[0])
        raise DataError(
            f"No image of {job.source.name} can be decoded; the first is {first['sample_id']!r} "
            f"({first['reason']})."
        )
    return EmbeddingManifest(
        kind=KIND,
        schema_version=SCHEMA_VERSION,
        identity=job.source.identity,
        source=job.source.name,
        encoder=encoder,
        rows_per_file=job.rows_per_file,
        num_rows=sum(file.num_rows for file in files),
        num_rejected=lines.count("\n"),
        rejected_sha256=hashlib.sha256(lines.encode()).hexdigest() if lines else None,
        files=files,
    )
