"""Collects all that is known of a run, from its folder and from MLflow, and what is missing."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from bt_ray.checkpoints.checkpoint import last_checkpoint
from bt_ray.config import SETTINGS_FILE, Method, Settings, in_use, read_settings
from bt_ray.data.shards.moved import follow_storage
from bt_ray.errors import CheckpointError, SettingsError, TrackingError
from bt_ray.redaction import without_credentials
from bt_ray.storage.names import below, is_far
from bt_ray.storage.working_copy import beside, place_of
from bt_ray.tracking.mlflow_history import RecordedFacts, find_recorded, recorded_history
from bt_ray.tracking.mlflow_record import recorded_run
from bt_ray.tracking.mlflow_store import tracking_uri
from bt_ray.tracking.snapshots import Arrays, read_snapshots
from bt_ray.tracking.tracker import METRICS, read_history

History = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What is known of a run.

    `settings` is None if only MLflow knows the run; `flat` has the settings as text, by dotted key.
    `snapshots` has the probes' arrays by step. `evaluations` has the content of their files.
    `missing` says in sentences what cannot be shown, and why.
    """

    name: str
    run_id: str | None
    uri: str | None
    folder: Path | None
    settings: Settings | None
    flat: Mapping[str, str]
    history: History
    snapshots: Mapping[int, Arrays]
    summary: Mapping[str, Any]
    state: str
    commit: str | None
    checkpoint: Path | None
    evaluations: tuple[Mapping[str, Any], ...]
    missing: list[str] = field(default_factory=list)

    @property
    def method(self) -> Method:
        """What it pretrains by; runs of an earlier version know one method alone."""
        return cast(Method, self.flat.get("objective.method", "barlow_twins"))

    @property
    def redundancy_weight(self) -> float:
        """λ, which weighs the off-diagonal term as it enters the loss."""
        return float(self.flat["objective.redundancy_weight"])

    @property
    def model_version(self) -> str | None:
        """NAME/VERSION of its encoder in the model registry, if it is there."""
        version = self.summary.get("model_version")
        return None if version is None else str(version)

    def last(self, metric: str) -> float | None:
        """The newest value of a metric."""
        points = list(self.history.get(metric, {}).values())
        return points[-1] if points else None

    def first(self, metric: str) -> float | None:
        """The oldest value of a metric, before training if a probe made it."""
        points = list(self.history.get(metric, {}).values())
        return points[0] if points else None


def find_run(reference: str, storage: str) -> RunRecord:
    """The run with this folder, name or MLflow id.

    Args:
      storage: of all runs, a path or a URI; MLflow's records are there, unless
        MLFLOW_TRACKING_URI says where.
    Raises: SettingsError if there is no such run; TrackingError if only MLflow could know.
    """
    places = [reference] if is_far(reference) else [reference, below(storage, reference)]
    for folder in map(place_of, places):
        if (folder / SETTINGS_FILE).is_file():
            return _of_folder(folder)
    uri = tracking_uri(storage)
    facts = find_recorded(uri, reference.removeprefix("runs:/"))
    if facts is None:
        raise SettingsError(
            f"There is no run {reference!r}: no run's folder of that name, here or in "
            f"{without_credentials(storage)}, and no run of that name or id in MLflow at "
            f"{without_credentials(uri)}. Give a run's folder, or its storage by --storage."
        )
    for place in (facts.storage or "", storage):  # the latter once the storage was moved
        folder = place_of(below(place, facts.name))
        found = recorded_run(folder)
        if found is not None and found.run_id == facts.run_id:
            return _of_folder(folder)
    return _of_mlflow(facts, uri)


def _of_folder(folder: Path) -> RunRecord:
    missing: list[str] = []
    settings = follow_storage(read_settings(folder / SETTINGS_FILE), folder)
    run, facts = recorded_run(folder), None
    if run is None:
        missing.append("Commit and state: the run's folder does not tell its MLflow run.")
    else:
        try:
            facts = find_recorded(run.uri, run.run_id)
            if facts is None:
                missing.append(
                    f"Commit and state: MLflow at {run.public_uri} has no run {run.run_id}."
                )
        except TrackingError as error:
            missing.append(f"Commit and state: {error}")
    history = read_history(folder / METRICS)
    snapshots = read_snapshots(folder)
    summary = _read_json(folder / "summary.json")
    checkpoint, damage = _checkpoint_of(folder)
    run_id = None if run is None else run.run_id
    if not history:
        missing.append(f"Curves: {METRICS} has no line yet; the first comes with the first probe.")
    if not snapshots:
        missing.append("Cross-correlation and spectrum: no probe has written its arrays yet.")
    if "knn/top1" not in history and history:
        missing.append("kNN: it needs labelled images in data.train and data.test.")
    if checkpoint is None:
        missing.append(f"Map, neighbours and snippet: {damage}")
    evaluations = _evaluations(beside(folder, "evaluations"), run_id)
    if not evaluations:
        missing.append("Evaluations: none yet; see `python -m pipelines.evaluate --help`.")
    return RunRecord(
        name=settings.name,
        run_id=run_id,
        uri=None if run is None else run.public_uri,
        folder=folder,
        settings=settings,
        flat={key: str(value) for key, value in in_use(settings).items()},
        history=history,
        snapshots=snapshots,
        summary=summary,
        state=_state(summary, history, facts),
        commit=None if facts is None else facts.commit,
        checkpoint=checkpoint,
        evaluations=evaluations,
        missing=missing,
    )


def _checkpoint_of(folder: Path) -> tuple[Path | None, str]:
    """A run's last complete checkpoint; if there is none, why."""
    try:
        return last_checkpoint(folder)[0], "there is no complete checkpoint yet."
    except CheckpointError as damage:
        return None, str(damage)


def _of_mlflow(facts: RecordedFacts, uri: str) -> RunRecord:
    """A run whose folder cannot be reached: MLflow has its settings, curves and scores."""
    if "objective.redundancy_weight" not in facts.params:
        raise SettingsError(
            f"The MLflow run {facts.run_id} ({facts.name}) is not a pretraining run: it has no "
            "settings. Name one of a sweep's trials, or another run."
        )
    history = recorded_history(uri, facts.run_id)
    scores = {
        name.removeprefix("eval/"): next(reversed(points.values()))
        for name, points in history.items()
        if name.startswith("eval/")
    }
    return RunRecord(
        name=facts.name,
        run_id=facts.run_id,
        uri=without_credentials(uri),
        folder=None,
        settings=None,
        flat=facts.params,
        history=history,
        snapshots={},
        summary={},
        state=_state({}, history, facts),
        commit=facts.commit,
        checkpoint=None,
        evaluations=_by_evaluation(scores),
        missing=[
            "Cross-correlation, spectrum, map and neighbours: the run's folder, "
            f"{Path(facts.storage or '', facts.name)}, is not within reach."
        ],
    )


def _by_evaluation(scores: Mapping[str, float]) -> tuple[Mapping[str, Any], ...]:
    """MLflow's scores, such as `knn_top1`, by the evaluation that their names begin with."""
    names = sorted({name.partition("_")[0] for name in scores})
    return tuple(
        {
            "evaluation": evaluation,
            "scores": {n: v for n, v in scores.items() if n.partition("_")[0] == evaluation},
        }
        for evaluation in names
    )


def _evaluations(folder: Path, run_id: str | None) -> tuple[Mapping[str, Any], ...]:
    """The evaluations of this run in the folder of all, sorted by name."""
    if run_id is None:
        return ()
    found = [_read_json(file) for file in sorted(folder.glob("*.json"))]
    mine = [record for record in found if record.get("run_id") == run_id and record.get("scores")]
    return tuple(sorted(mine, key=lambda record: str(record.get("evaluation"))))


def _read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if the file is missing or incomplete."""
    try:
        tree = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return tree if isinstance(tree, dict) else {}


def _state(summary: Mapping[str, Any], history: History, facts: RecordedFacts | None) -> str:
    """How far the run has come, and how it ended, in words."""
    done = max((step for points in history.values() for step in points), default=0)
    if summary:
        steps, total = summary["steps"], summary["total_steps"]
        if summary.get("is_finished", steps >= total):
            return f"finished after {steps:,} steps"
        return f"stopped after {steps:,} of {total:,} steps"
    told = "unfinished" if facts is None else facts.state.lower()
    return f"{told}, {done:,} steps recorded"
