"""What a finished run came to, for people and programs."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from bt_ray.checkpoints.best import best_checkpoint
from bt_ray.checkpoints.checkpoint import stream_digest
from bt_ray.config import SETTINGS_FILE, Settings
from bt_ray.errors import TrackingError
from bt_ray.evaluation.probe import NEIGHBORS, SHARED_IMAGES
from bt_ray.figures.correlation import draw_correlation
from bt_ray.figures.curves import draw_curves
from bt_ray.figures.eigenvalues import draw_eigenvalues
from bt_ray.json_files import count_cut_lines, write_json
from bt_ray.objective.expectations import warning
from bt_ray.storage.names import name_of
from bt_ray.tracking.mlflow import MlflowRun
from bt_ray.tracking.snapshots import read_snapshots
from bt_ray.tracking.tracker import METRICS, read_history

_log = logging.getLogger(__name__)
FIGURES = "figures"
"""Name of the folder of pictures in a run's folder."""


@dataclass(frozen=True)
class Progress:
    """How far a run has come: its last checkpoint, that one's steps, and whether it is finished."""

    checkpoint: Path
    steps: int
    total_steps: int
    is_finished: bool


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a finished run came to."""

    run_id: str
    steps: int
    total_steps: int
    """Of the whole run; more than `steps` if it was stopped on the way, or out of patience."""
    is_finished: bool
    """Whether the same command has nothing left to do."""
    best: dict[str, float] | None
    """The best probe's `step` and `score`, whose checkpoint is `paths["best"]`; none if probes were
    not compared."""
    images_per_s: float | None
    precision: str
    """Arithmetic of encoder and projector: what `training.precision` auto meant for this run."""
    stream_digest: str
    """Equal for two runs that were trained on the same images in the same views and order."""
    scores: dict[str, float | None]
    """None where it was not measured, such as kNN without labels."""
    neighbors: int | None
    """The k of kNN; none without it."""
    model_version: str | None
    paths: dict[str, str]
    warnings: tuple[str, ...] = ()
    """Sentences on loss terms that look wrong (`objective.expectations`), and on what a person must
    know of the run."""


def summarize(
    settings: Settings,
    run_folder: Path,
    run: MlflowRun,
    progress: Progress,
    version: str | None,
    notes: Sequence[str] = (),
) -> Summary:
    """The summary of the run whose measures lie in `run_folder`.

    Args:
      version: of the encoder in the model registry, if it was registered.
      notes: what else to warn of, in words.
    """
    history = read_history(run_folder / METRICS)
    step_s = history.get("time/step_s", {})
    timed = [(after - before, step_s[after]) for before, after in pairwise([0, *step_s])]
    seconds = sum(count * each for count, each in timed)
    knn = list(history.get("knn/top1", {}).values())
    rank_me = list(history.get("probe/rankme", {}).values())
    last = {name: list(points.values())[-1] for name, points in history.items()}
    doubts = [find_doubt(settings, last), find_leak(last)]
    best = best_checkpoint(run_folder) if settings.training.selects else None
    if not (rank_me and step_s and "train/loss" in last):
        notes = [
            *notes,
            f"{name_of(run_folder / METRICS)} was cut or removed: measures are missing.",
        ]
    elif cut := count_cut_lines(run_folder / METRICS):
        notes = [
            *notes,
            f"{cut} lines of {name_of(run_folder / METRICS)} were cut, by a kill or a full disk: "
            "their measures are missing.",
        ]
    return Summary(
        run_id=run.run_id,
        steps=progress.steps,
        total_steps=progress.total_steps,
        is_finished=progress.is_finished,
        best=None if best is None else asdict(best[1]),
        images_per_s=round(
            settings.data.global_batch * sum(count for count, _ in timed) / seconds, 1
        )
        if seconds
        else None,
        precision=settings.training.precision,
        stream_digest=stream_digest(progress.checkpoint),
        scores={
            "knn_top1_untrained": knn[0] if knn else None,
            "knn_top1": knn[-1] if knn else None,
            "rankme_untrained": rank_me[0] if rank_me else None,
            "rankme": rank_me[-1] if rank_me else None,
            "alignment": last.get("probe/alignment"),
            "uniformity": last.get("probe/uniformity"),
            "loss": last.get("train/loss"),
            **_scores_of_average(last),
        },
        neighbors=int(last[NEIGHBORS]) if NEIGHBORS in last else None,
        model_version=None if version is None else f"{settings.registered_model}/{version}",
        paths={
            "run": name_of(run_folder),
            "checkpoint": name_of(progress.checkpoint),
            **({} if best is None else {"best": name_of(best[0])}),
            "metrics": name_of(run_folder / METRICS),
            "curves": name_of(run_folder / FIGURES / "curves.png"),
            "mlflow": run.public_uri,
        },
        warnings=(*notes, *(doubt for doubt in doubts if doubt is not None)),
    )


def _scores_of_average(last: Mapping[str, float]) -> dict[str, float]:
    """What was measured last of the averaged encoder; nothing if there is none."""
    names = {"knn_top1_average": "knn_average/top1", "rankme_average": "probe_average/rankme"}
    return {score: last[name] for score, name in names.items() if name in last}


def find_doubt(settings: Settings, last: Mapping[str, float]) -> str | None:
    """A sentence if the last loss terms look wrong; none of another loss than that of Eq. 1."""
    if settings.objective.variant != "barlow_twins" or "train/on_diagonal" not in last:
        return None
    return warning(
        last["train/on_diagonal"],
        last["train/off_diagonal"],
        settings.data.global_batch,
        settings.model.projector_widths[-1],
        settings.objective.redundancy_weight,
    )


def find_leak(last: Mapping[str, float]) -> str | None:
    """A sentence if held-out images are among the training images that kNN looks among."""
    shared = int(last.get(SHARED_IMAGES, 0))
    if not shared:
        return None
    return (
        f"Held-out images that are training images, pixel for pixel as kNN sees them: {shared:,}. "
        "It finds them themselves, and its accuracy flatters. Take them out of data.test or "
        "data.train."
    )


def keep(summary: Summary, settings: Settings, run_folder: Path, run: MlflowRun) -> None:
    """Stores the summary and the figures in the run's folder, and then with its MLflow run."""
    file = run_folder / "summary.json"
    write_json(file, asdict(summary))
    figures = _draw(settings, run_folder)
    try:
        for kept in (file, *figures, run_folder / SETTINGS_FILE):
            run.log_file(kept)
    except TrackingError as away:
        _log.warning("%s Summary and figures are in %s.", away, name_of(run_folder))


def _draw(settings: Settings, run_folder: Path) -> list[Path]:
    """The files of the run's figures: its curves and, where a probe left arrays, those."""
    folder = run_folder / FIGURES
    folder.mkdir(exist_ok=True)
    curves, correlation, eigenvalues = (
        folder / f"{name}.png" for name in ("curves", "correlation", "eigenvalues")
    )
    history, snapshots = read_history(run_folder / METRICS), read_snapshots(run_folder)
    if "train/loss" not in history:
        return []
    draw_curves(
        history,
        redundancy_weight=settings.objective.redundancy_weight,
        title=settings.name,
        file=curves,
    )
    if not snapshots or not history.get("probe/rankme"):
        return [curves]
    draw_correlation(
        {step: arrays["cross_correlation"] for step, arrays in snapshots.items()},
        num_dimensions=settings.model.projector_widths[-1],
        title=settings.name,
        file=correlation,
    )
    draw_eigenvalues(
        {step: arrays["eigenvalues"] for step, arrays in snapshots.items()},
        rank_me=history["probe/rankme"],
        title=settings.name,
        file=eigenvalues,
    )
    return [curves, correlation, eigenvalues]
