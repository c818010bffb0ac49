"""Runs' folders as training leaves them, made without training."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bt_ray.checkpoints.checkpoint import save_checkpoint
from bt_ray.config import SETTINGS_FILE, Settings, override, to_json
from bt_ray.tracking.mlflow import MlflowRun, start_run
from bt_ray.tracking.mlflow_record import record_run
from bt_ray.tracking.snapshots import write_snapshot
from bt_ray.tracking.tracker import METRICS, JsonLinesTracker
from tests.states import build_state

STEPS = range(10, 60, 10)


def begun_run(settings: Settings, **changes: Any) -> Path:
    """A run's folder of which nothing but its settings is there yet."""
    settings = override(settings, changes)
    folder = Path(settings.storage) / settings.name
    folder.mkdir(parents=True)
    (folder / SETTINGS_FILE).write_text(to_json(settings))
    return folder


def finished_run(
    settings: Settings, *, with_labels: bool = True, **changes: Any
) -> tuple[Path, MlflowRun]:
    """A finished run: curves, arrays, a checkpoint, a summary, a record in MLflow."""
    settings = override(settings, changes)
    folder = begun_run(settings)
    run, _ = start_run(settings)
    record_run(folder, run)
    tracker = JsonLinesTracker(folder / METRICS)
    generator = np.random.default_rng(len(settings.name))
    for step in (0, 50):
        probed = {"probe/rankme": 30.0 + step, "probe/alignment": 0.2, "probe/uniformity": -1.5}
        tracker.log(step, probed | ({"knn/top1": 0.5 + step / 200} if with_labels else {}))
        noise = generator.normal(scale=0.1, size=(64, 64)).astype(np.float32)
        arrays = {
            "cross_correlation": noise + (step > 0) * np.eye(64, dtype=np.float32),
            "eigenvalues": np.sort(generator.dirichlet(np.ones(256)))[::-1].astype(np.float32),
        }
        write_snapshot(folder, step, arrays)
    for step in STEPS:
        tracker.log(
            step,
            {
                "train/loss": 300.0 - step, "train/on_diagonal": 200.0 - step,
                "train/off_diagonal": 20_000.0, "time/images_per_s": 800.0,
            },
        )  # fmt: skip
    save_checkpoint(folder / "train" / "checkpoint_50", build_state(settings, torch.device("cpu")),
                    settings)  # fmt: skip
    summary = {"steps": 50, "total_steps": 50, "model_version": f"barlow-{settings.name}/3"}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder, run


def evaluated(
    storage: str, run: MlflowRun, evaluation: str, scores: dict[str, float], **more: Any
) -> None:
    """Leaves an evaluation's result where such results lie."""
    folder = Path(storage) / "evaluations"
    folder.mkdir(exist_ok=True)
    record = {"run_id": run.run_id, "evaluation": evaluation, "scores": scores, **more}
    (folder / f"{run.run_id}-{evaluation}.json").write_text(json.dumps(record))
