"""A reference curve: ResNet-18 on CIFAR-10, 200 epochs, kNN every ten, in calls of some minutes."""

import json
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from bt_ray.checkpoints.checkpoint import last_checkpoint
from bt_ray.config import Settings, override
from bt_ray.data.preparation.prepare import prepare_data
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.plan import build_plan
from bt_ray.presets import preset
from bt_ray.tracking.tracker import METRICS, read_history
from bt_ray.training.assignment import Pretraining
from bt_ray.training.local import train_here
from bt_ray.training.run_folder import claim_folder, locate_storage, open_storage, sole_owner
from bt_ray.training.stop import StopRequest
from pipelines.terminal import console

EXPECTED_KNN = 0.82
"""kNN (k = 200, temperature 0.1) of ResNet-18 after 200 epochs with batch 512: lightly's table says
81.9 % on lossless images. Ours has other rates (LARS); nobody has run it."""
_MINUTES_PER_HOUR = 60
_CURVE = "curve.json"
_TINY = {"model.encoder": "conv4", "schedule.epochs": 2, "schedule.warmup_epochs": 1,
         "model.projector_widths": (32, 32), "training.probe_every_epochs": 1,
         "data.global_batch": 32, "data.rows_per_row_group": 32, "training.precision": "fp32",
         "views.image_px": 16}  # fmt: skip


def build_settings(images: Path, out: Path, tiny: bool) -> Settings:
    """solo-learn's recipe for CIFAR-10, but for its 1000 epochs and weight decay, in our terms."""
    half = "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "fp16"
    changes: dict[str, Any] = {
        "name": "curve",
        "storage": str(out),
        "data.train": str(images / "train"),
        "data.test": str(images / "test"),
        "data.global_batch": 512,
        "model.encoder": "resnet18",
        "model.stem": "cifar",
        "model.projector_widths": (2048, 2048, 2048),
        "optimizer.weight_rate": 0.3,
        "schedule.epochs": 200,
        "schedule.warmup_epochs": 10.0,
        "training.precision": half,
        "training.probe_every_epochs": 10.0,
        "training.checkpoint_every_epochs": 5.0,
        "scaling.workers": 0,
        "scaling.accelerator": "cpu" if tiny else "gpu",
    }
    return override(preset("cifar10"), changes | (_TINY if tiny else {}))


def run_curve(images: Path | None, out: Path | None, minutes: float, tiny: bool) -> dict[str, Any]:
    """Trains for some minutes from where the last call stopped; the curve so far.

    It is also written to curve.json in `out`, and printed.

    Raises: LaunchError without a GPU; DataError; SettingsError if `out` holds another run.
    """
    assert images is not None
    assert out is not None
    settings = locate_storage(build_settings(images, out, tiny))
    open_storage(settings)
    settings = prepare_data(settings)
    manifest = ShardSet.open(settings.data.train).manifest
    steps_per_epoch = build_plan(settings, manifest).steps_per_epoch
    total_steps = steps_per_epoch * settings.schedule.epochs
    run_folder = Path(settings.storage) / settings.name
    with sole_owner(run_folder):
        settings = claim_folder(run_folder, settings)
        if last_checkpoint(run_folder)[1] < total_steps:
            stop = StopRequest()
            with stop.listening(minutes / _MINUTES_PER_HOUR):
                train_here(Pretraining(settings), total_steps, stop)
        steps = last_checkpoint(run_folder)[1]
    history = read_history(run_folder / METRICS)
    record = {
        "steps": steps,
        "total_steps": total_steps,
        "epochs": [step / steps_per_epoch for step in sorted(history.get("knn/top1", {}))],
        "knn_top1": [value for _, value in sorted(history.get("knn/top1", {}).items())],
        "expected": EXPECTED_KNN,
    }
    (out / _CURVE).write_text(json.dumps(record, indent=2))
    _print_curve(record)
    return record


def _print_curve(record: dict[str, Any]) -> None:
    table = Table("epoch", "kNN", title=f"{record['steps']:,} of {record['total_steps']:,} steps")
    for epoch, score in zip(record["epochs"], record["knn_top1"], strict=True):
        table.add_row(f"{epoch:g}", f"{score:.1%}")
    console.print(table)
    if record["steps"] < record["total_steps"]:
        console.print("The same command goes on.")
    else:
        console.print(f"Expected at the end: about {record['expected']:.0%}.")
