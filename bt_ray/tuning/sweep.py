"""A sweep: Ray Tune and Optuna propose settings, each trial is a training run of its own."""

import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from bt_ray.config import Settings, check_pretraining, to_json
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.errors import RunFailedError, RunStoppedError, SettingsError
from bt_ray.evaluation.labelled import read_labels
from bt_ray.redaction import without_credentials
from bt_ray.storage.working_copy import below, folder_of, is_far, name_of
from bt_ray.tracking.mlflow import ending
from bt_ray.tracking.mlflow_record import run_of_folder
from bt_ray.tracking.registry import reserve_name
from bt_ray.training.run_folder import locate_storage, open_storage, sole_owner
from bt_ray.tuning.champion import Verdict, contend
from bt_ray.tuning.claim import claim_folder
from bt_ray.tuning.order import SweepOrder
from bt_ray.tuning.pictures import draw_sweep
from bt_ray.tuning.progress import SweepProgress
from bt_ray.tuning.records import TrialRecord
from bt_ray.tuning.room import join_cluster
from bt_ray.tuning.score import Score
from bt_ray.tuning.space import SearchSpace
from bt_ray.tuning.split import hold_out
from bt_ray.tuning.start import Start
from bt_ray.tuning.study_storage import study_url
from bt_ray.tuning.trial import TrialOrder

_DRAWS = 64
NOT_COPIED = ("runs", "tune")
"""Folders in a sweep's: trials' runs go to its storage by themselves, Ray's notes not at all."""


@dataclass(frozen=True, kw_only=True)
class SweepSummary:
    """What a sweep found. `best`: none if no trial finished; `verdict`: on the best's encoder."""

    run_id: str
    name: str
    score: Score
    trials: tuple[TrialRecord, ...]
    best: TrialRecord | None
    verdict: Verdict | None
    paths: dict[str, str]


def sweep(
    space: SearchSpace,
    settings: Settings,
    order: SweepOrder | None = None,
    *,
    on_progress: Callable[[SweepProgress], None] = lambda progress: None,
) -> SweepSummary:
    """Trains with settings that `space` proposes; the best encoder competes with the champion.

    Trials are compared on a held-out part of the training images; the best one alone is scored on
    the test images. A sweep of this name that ended early is continued.

    Args:
      space: which settings change; all others are those of `settings`.
      on_progress: called with the state of the sweep, several times a second.
    Raises: SettingsError for a key that is no setting, or another sweep's name; LaunchError if
      the sweep runs already, its study cannot be used, or a trial does not fit the cluster;
      RunStoppedError after SIGINT or SIGTERM; RunFailedError if every trial failed.
    """
    order = order or SweepOrder()
    check_pretraining(settings)
    if settings.scaling.is_elastic:
        raise SettingsError(
            f"scaling.workers={settings.scaling.workers} must be one number in a sweep: its trials "
            "share the cluster."
        )
    space.check(settings)
    if is_far(settings.storage) and settings.scaling.min_workers == 0:
        raise SettingsError(
            "scaling.workers=0 has trials train on any node, and a sweep whose storage is a URI "
            "has them beside its own process: give --scaling.workers 1 or more."
        )
    points = order_points(space, order)
    settings = locate_storage(settings)
    open_storage(settings)
    folder = sweep_folder(space, settings)
    study = study_url(folder, order.study)
    with sole_owner(folder, "sweep", NOT_COPIED):
        claim = claim_folder(folder, space, settings, order)
        split = hold_out(settings, share=order.held_out)
        score = _choose_score(split, space)
        split, room = join_cluster(split, order.at_once, claim)
        run, _ = run_of_folder(folder, replace(settings, name=folder.name))
        reserve_name(run.uri, settings.registered_model)
        with ending(run) as end:
            trial_order = TrialOrder(
                name=folder.name,
                settings=to_json(split, with_secrets=True),
                folder=str(folder),
                storage=sweep_storage(space, settings),
                score=score,
                study=study,
                parent=run,
            )
            start = Start(space, order, trial_order, split, room, claim)
            stopped_by = start.run(points, on_progress)
            if stopped_by is not None:
                end.state = "KILLED"
            else:
                summary = _conclude(space, settings, order, trial_order)
    if stopped_by is not None:
        raise _stopped(stopped_by, trial_order)
    return summary


def order_points(space: SearchSpace, order: SweepOrder) -> tuple[dict[str, object], ...]:
    """Values to try first: the space's points, or all of its grid.

    Raises: SettingsError if a grid is asked for, and the space has none.
    """
    if order.search != "grid":
        return space.points
    if not space.grid:
        raise SettingsError(
            f"The search space {space.name!r} has no grid; give it one, or use --search tpe."
        )
    return space.grid


def sweep_folder(space: SearchSpace, settings: Settings) -> Path:
    """Where a sweep is kept, below the located storage."""
    return folder_of(sweep_storage(space, settings))


def sweep_storage(space: SearchSpace, settings: Settings) -> str:
    """The same as a path or a URI."""
    return below(settings.storage, f"sweeps/{space.name}-{settings.name}")


def _choose_score(split: Settings, space: SearchSpace) -> Score:
    """The accuracy of kNN if all images, held-out ones too, have labels; else RankMe × cosine.

    Raises: SettingsError for views that vary where there are no labels.
    """
    parts = (split.data.train, str(split.data.test))
    if all(bool((read_labels(ShardSet.open(root)) >= 0).all()) for root in parts):
        return "knn_top1"
    if any(key.startswith("views.") for changes in space.draw(_DRAWS) for key in changes):
        raise SettingsError(
            f"The search space {space.name!r} changes the views, and not all images have labels: "
            "trials would be compared by how alike two views are, each by its own. Give labelled "
            "images, or another space."
        )
    return "rankme_cosine"


def _stopped(signal_number: int, order: TrialOrder) -> RunStoppedError:
    error = RunStoppedError(
        f"{signal.Signals(signal_number).name} stopped the sweep after "
        f"{len(list(order.records))} trials; those under way have a checkpoint. The same command "
        "continues it."
    )
    error.signal_number = signal_number
    return error


def _conclude(
    space: SearchSpace, settings: Settings, order: SweepOrder, trial_order: TrialOrder
) -> SweepSummary:
    """Draws the figures and has the best encoder compete with the champion; the summary.

    Raises: RunFailedError if every trial failed.
    """
    records = tuple(trial_order.records)
    folder = Path(trial_order.folder)
    finished = [record for record in records if record.state == "finished"]
    if not finished and not any(record.state == "diverged" for record in records):
        reason = records[0].reason if records else "there were none"
        raise RunFailedError(
            f"All {len(records)} trials failed; the first one: {reason} `--retry-failed` runs them "
            "again."
        )
    best = max(finished, key=lambda record: record.score or 0.0, default=None)
    draw_sweep(trial_order, folder / "figures")
    verdict = None
    if best is not None:
        verdict = contend(best, settings, order, trial_order)
    return SweepSummary(
        run_id=trial_order.parent.run_id,
        name=trial_order.name,
        score=trial_order.score,
        trials=records,
        best=best,
        verdict=verdict,
        paths={
            "sweep": name_of(folder),
            "study": without_credentials(trial_order.study),
            "figures": name_of(folder / "figures"),
            "mlflow": trial_order.parent.public_uri,
        },
    )
