"""A sweep: Ray Tune and Optuna propose settings, each trial is a Ray Train run of its own."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.train import Checkpoint
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.search.optuna import OptunaSearch

from bt_ray.config import Settings, from_json, override, to_json
from bt_ray.data.prepare import prepare_data
from bt_ray.data.shards import ShardSet
from bt_ray.errors import RunFailedError, SettingsError
from bt_ray.tracking.mlflow import MlflowRun, ending, start_parent_run
from bt_ray.training.cluster import connect, cpus_needed, uses_gpu
from bt_ray.training.launch import pretrain
from bt_ray.training.run_folder import locate_storage
from bt_ray.training.summary import Summary
from bt_ray.tuning.space import SearchSpace

_TRIAL_CPUS = 0.01  # Tune refuses 0; the trial's own workers do the work


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One set of settings and what it scored; `score` is None where the trial failed."""

    name: str
    changes: dict[str, Any]
    score: float | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class SweepSummary:
    """What a sweep found; `winner` is the best trial's run, registered."""

    run_id: str
    metric: str
    trials: tuple[Trial, ...]
    best: Trial
    winner: Summary


def sweep(space: SearchSpace, settings: Settings, *, trials: int) -> SweepSummary:
    """Tries settings of `space` on top of `settings` and registers the best trial's encoder.

    The score is kNN top-1 where both sets of images are labelled, RankMe where not.

    Raises: SettingsError for no trials or a key that is no setting; RunFailedError if every
      trial failed.
    """
    if trials < 1:
        raise SettingsError(f"trials={trials} must be at least 1.")
    space.check(settings)
    settings = prepare_data(locate_storage(settings))
    connect(settings, extra_cpus=_TRIAL_CPUS)
    metric = "knn/top1" if _is_labelled(settings) else "probe/rankme"
    parent = start_parent_run(f"{space.name} on {settings.name}", settings)
    with ending(parent):
        results = _tuner(space, settings, trials, metric, parent).fit()
        tried = tuple(_trial(results[i], metric, settings.name) for i in range(len(results)))
        scored = [trial for trial in tried if trial.score is not None]
        if not scored:
            raise RunFailedError(
                f"All {trials} trials failed; the first one with: {results[0].error}"
            )
        best = max(scored, key=lambda trial: trial.score or 0.0)
        winner = pretrain(_trial_settings(settings, best.name, best.changes), parent=parent)
        parent.log(0, {f"best/{metric}": best.score or 0.0})
    return SweepSummary(run_id=parent.run_id, metric=metric, trials=tried, best=best, winner=winner)


def _is_labelled(settings: Settings) -> bool:
    roots = (settings.data.train, settings.data.test)
    return all(root is not None and ShardSet.open(root).manifest.classes for root in roots)


def _trials_at_once(settings: Settings) -> int:
    """Trials that the cluster has room for, at least one."""
    cluster = ray.cluster_resources()
    room = cluster.get("CPU", 1) / (cpus_needed(settings) + _TRIAL_CPUS)
    if uses_gpu(settings):
        room = min(room, cluster.get("GPU", 0) / settings.scaling.workers)
    return max(1, int(room))


def _tuner(
    space: SearchSpace, settings: Settings, trials: int, metric: str, parent: MlflowRun
) -> tune.Tuner:
    trainable = partial(_run_trial, settings=to_json(settings), metric=metric, parent=parent)
    return tune.Tuner(
        tune.with_resources(trainable, {"CPU": _TRIAL_CPUS}),
        param_space=space.parameters,
        tune_config=tune.TuneConfig(
            metric=metric,
            mode="max",
            search_alg=OptunaSearch(
                points_to_evaluate=list(space.points), seed=settings.training.seed
            ),
            num_samples=trials,
            max_concurrent_trials=_trials_at_once(settings),
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=tune.RunConfig(
            name=parent.run_id, storage_path=str(Path(settings.storage) / "sweeps"), verbose=0
        ),
    )


def _run_trial(changes: dict[str, Any], *, settings: str, metric: str, parent: MlflowRun) -> None:
    """One trial, in a process of its own that waits for its Ray Train run."""
    base = from_json(settings)
    name = f"{base.name}-{tune.get_context().get_trial_id()}"
    pretrain(
        _trial_settings(base, name, changes),
        register=False,
        callbacks=[ReportProbes(metric)],
        parent=parent,
    )


def _trial_settings(base: Settings, name: str, changes: dict[str, Any]) -> Settings:
    """The trial's own settings; its encoder, should it win, goes by the preset's name."""
    changed = override(base, {**changes, "name": name})
    return replace(
        changed, tracking=replace(changed.tracking, registered_model=base.registered_model)
    )


class ReportProbes(TuneReportCallback):
    """Tells Tune of the reports that hold the score: the probes, and not the checkpoints."""

    def __init__(self, metric: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._metric = metric

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None
    ) -> None:
        """Called by Ray Train after all workers have reported."""
        if self._metric in metrics[0]:
            super().after_report(run_context, metrics, None)


def _trial(result: tune.Result, metric: str, base_name: str) -> Trial:
    reported = result.metrics or {}
    return Trial(
        name=f"{base_name}-{reported.get('trial_id', 'unknown')}",
        changes=dict(result.config or {}),
        score=None if result.error else reported.get(metric),
        seconds=float(reported.get("time_total_s", 0.0)),
    )
