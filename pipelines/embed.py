"""Turns images into vectors: `python -m pipelines.embed SOURCE DEST --model ENCODER`."""

import time
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from bt_ray.data.sources import open_source
from bt_ray.redaction import redact
from pipelines.count_line import CountLine
from pipelines.encoders import EncoderPlaces
from pipelines.terminal import command, console, finish, guarded


@dataclass(frozen=True, kw_only=True)
class Embed(EncoderPlaces):
    """Writes each image's vector, of its central view, into Parquet files with a manifest.

    The same command continues what was cut short. Images that cannot be decoded are listed in
    rejected.jsonl. `python -m pipelines.neighbors DEST IMAGE` looks up what is near.
    """

    source: Annotated[str, tyro.conf.Positional]
    """Images: whatever `python -m pipelines.prepare` reads, shards too."""
    destination: Annotated[str, tyro.conf.Positional]
    """A new folder, or one that the same command began; a path or a URI."""
    model: str
    """A run's folder, a checkpoint, models:/NAME@ALIAS, models:/NAME/VERSION, runs:/RUN_ID, a file
    of weights (.pth, .pt, .bin, .safetensors), timm:NAME, torchvision:WEIGHTS or
    hf:REPOSITORY[@REVISION]."""
    workers: int | None = None
    """Encoders that run at once, on the Ray cluster that is joined or else started here; 0: this
    process alone, without Ray; none: one on each GPU or, where there is none, on each CPU."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """What they compute on; auto: GPUs if there are any."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the encoder; vectors are written as float32."""
    batch_size: int = 64
    """Images that go through the encoder together."""
    rows_per_file: int | None = None
    """Images of one file, which a killed command may have to do again; none: a 64th of all, but
    64 to 4096."""


@command
def main() -> None:
    """Parses the command line, writes the vectors, says what is in them."""
    order = guarded(lambda: tyro.cli(Embed, prog="python -m pipelines.embed"))
    finish(guarded(lambda: embed_images(order)))


def embed_images(order: Embed) -> dict[str, object]:
    """Writes the vectors; what to say of them at the end."""
    from bt_ray.embedding.embed import EmbeddingJob, embed, usual_rows_per_file
    from bt_ray.embedding.encoder import Computation
    from bt_ray.embedding.pool import build_pool
    from bt_ray.evaluation.encoder import open_encoder

    source = open_source(order.source)
    pretrained, run = open_encoder(order.model, order.settings_for(order.model))
    wanted = Computation(batch_size=order.batch_size, precision=order.precision)
    pool = build_pool(order.workers, order.accelerator, wanted)
    console.print(f"{len(source):,} images in {source.name}, embedded {pool.words}")
    rows_per_file = order.rows_per_file
    if rows_per_file is None:
        rows_per_file = usual_rows_per_file(len(source))
    job = EmbeddingJob(
        source=source,
        root=order.destination,
        pretrained=pretrained,
        reference=order.model,
        run_id=None if run is None else run.run_id,
        computation=pool.computation,
        rows_per_file=rows_per_file,
    )
    began = time.perf_counter()
    with CountLine() as line:
        manifest = embed(job, pool.run_all, line.show)
    console.print(
        f"{manifest.num_rows:,} vectors of {manifest.encoder.num_features:,} numbers in "
        f"{len(manifest.files)} files: {redact(order.destination)}"
    )
    if manifest.num_rejected:
        console.print(
            f"{manifest.num_rejected:,} of {len(source):,} images cannot be decoded: rejected.jsonl"
        )
    return {
        "run_id": manifest.encoder.run_id,
        "steps": None,
        "images_per_s": round(manifest.num_rows / (time.perf_counter() - began), 1),
        "scores": {},
        "model_version": None,
        "paths": {"embeddings": order.destination},
        "images": manifest.num_rows,
        "features": manifest.encoder.num_features,
        "rejected": manifest.num_rejected,
        "encoder_digest": manifest.encoder.digest,
        "digest": manifest.digest,
    }


if __name__ == "__main__":
    main()
