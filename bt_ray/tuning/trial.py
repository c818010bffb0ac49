"""One trial: a training run in a process of its own, whose end is recorded."""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from ray import tune
from ray.exceptions import OutOfMemoryError

from bt_ray.config import Settings, from_json, override
from bt_ray.data.lock import held
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.plan import build_plan
from bt_ray.errors import BtRayError, NonFiniteLossError
from bt_ray.redaction import redact
from bt_ray.storage.names import below, folder_of
from bt_ray.tracking.mlflow import MlflowRun
from bt_ray.tracking.mlflow_record import recorded_run
from bt_ray.tracking.tracker import METRICS, Measures, read_history
from bt_ray.training.launch import pretrain
from bt_ray.training.stop import StopRequest
from bt_ray.training.summary import Summary
from bt_ray.training.validation import prepare_validation
from bt_ray.tuning.records import Records, State, TrialRecord
from bt_ray.tuning.score import Score, is_score, read_score
from bt_ray.tuning.wishes import RemoteWishes

PRUNED = "pruned"
"""Name of a file in a trial's folder: the search has given the trial up."""
OUT_OF_MEMORY = (torch.OutOfMemoryError, MemoryError, OutOfMemoryError)
"""Errors after which another try may succeed, as memory is shared with other trials."""
_LOCK_WAIT_S = 60
_LOOK_EVERY_S = "1"  # at the workers, not Ray Train's 2 s: a trial waits for it when it ends


@dataclass(frozen=True, kw_only=True)
class TrialOrder:
    """What all trials of a sweep share; it is sent to their processes."""

    name: str
    """Of the sweep."""
    settings: str = field(repr=False)
    """The settings that the trials change, as JSON."""
    folder: str
    """Of the sweep, on the machine of its process and of its trials' own ones."""
    storage: str = field(repr=False)
    """Of the sweep: the same folder, or the URI that it is a copy of."""
    score: Score
    study: str = field(repr=False)
    """Where Optuna's study is kept; it may hold a password."""
    parent: MlflowRun
    wishes: RemoteWishes | None = None
    """What the sweep's process asks of trials."""

    @property
    def records(self) -> Records:
        """The records of trials that have ended."""
        return Records(Path(self.folder) / "trials")

    def trial_name(self, number: int) -> str:
        """Name of a trial's run."""
        return f"{self.name}-{number:03d}"

    def run_folder(self, number: int) -> Path:
        """Folder of a trial's run."""
        return folder_of(self._runs) / self.trial_name(number)

    @property
    def _runs(self) -> str:
        return below(self.storage, "runs")

    def trial_settings(self, number: int, changes: Mapping[str, Any]) -> Settings:
        """A trial's settings; if it wins, its model has the name that all trials would give it.

        Raises: SettingsError if the changes do not fit together.
        """
        base = from_json(self.settings)
        changed = override(base, {**changes, "name": self.trial_name(number)})
        return replace(
            changed,
            storage=self._runs,
            tracking=replace(changed.tracking, registered_model=base.registered_model),
        )


@dataclass(frozen=True)
class TellTune:
    """A tracker that reports every score to Ray Tune, whose trial this process is."""

    kind: Score
    steps_per_epoch: int

    def log(self, step: int, measures: Measures, time_ms: int | None = None) -> None:
        """Reports the score, if the measures hold one."""
        score = read_score(measures, self.kind)
        if is_score(score):
            tune.report({"epoch": step / self.steps_per_epoch, "step": step, "score": score})


def run_trial(config: dict[str, Any], *, order: TrialOrder) -> None:
    """Trains with the changes in `config`, and writes the record of how that ended.

    A trial without a record has not ended: it was asked to stop, or its process was killed.
    Raises: an error of `OUT_OF_MEMORY`, after which Ray Tune starts the trial again, a few times.
    """
    number, params, changes = config["number"], config["params"], config["changes"]
    if order.records.read(number) is not None:
        return
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", _LOOK_EVERY_S)
    began = time.monotonic()

    def keep(state: State, reason: str | None = None) -> None:
        told = None if reason is None else redact(reason, order.study, order.parent.uri)
        record = describe(order, number, params, changes, state, told)
        order.records.keep(replace(record, seconds=time.monotonic() - began))

    try:
        summary = _train(order, number, changes)
    except OUT_OF_MEMORY:
        raise
    except NonFiniteLossError as error:
        keep("diverged", str(error))
    except Exception as error:  # whatever it is, it is this trial's alone, and recorded
        keep("failed", explain(error))
    else:
        if summary.is_finished:
            last = describe(order, number, params, changes, "finished").score
            if is_score(last):
                keep("finished")
            else:
                keep("diverged", f"The score of the last probe is {last}.")
        elif order.wishes is not None and order.wishes.read(number) == "give up":
            keep("pruned")


def _train(order: TrialOrder, number: int, changes: Mapping[str, Any]) -> Summary:
    settings = order.trial_settings(number, changes)
    run_folder = order.run_folder(number)
    run_folder.mkdir(parents=True, exist_ok=True)
    with held(run_folder / ".lock", timeout_s=_LOCK_WAIT_S):
        pass  # of a sweep that was killed, the last processes may still be about to end
    settings = prepare_validation(settings)
    plan = build_plan(settings, ShardSet.open(settings.data.train).manifest)
    return pretrain(
        settings,
        register=False,
        trackers=[TellTune(order.score, plan.steps_per_epoch)],
        parent=order.parent,
        stop=None if order.wishes is None else StopRequest(order.wishes.asking(number)),
    )


def describe(
    order: TrialOrder,
    number: int,
    params: dict[str, Any],
    changes: Mapping[str, Any],
    state: State,
    reason: str | None = None,
    *,
    needed_bytes: int | None = None,
) -> TrialRecord:
    """The record of a trial whose measures lie in its run's folder."""
    run_folder = order.run_folder(number)
    history = read_history(run_folder / METRICS)
    by_step: dict[int, dict[str, float]] = {}
    for name, points in history.items():
        for step, value in points.items():
            by_step.setdefault(step, {})[name] = value
    epochs = history.get("train/epoch", {})
    last_step = max(epochs, default=0)
    steps_per_epoch = last_step / epochs[last_step] if last_step else 1.0
    scores = {
        round(step / steps_per_epoch, 3): score
        for step, measures in sorted(by_step.items())
        if (score := read_score(measures, order.score)) is not None
    }
    run = recorded_run(run_folder)
    return TrialRecord(
        number=number,
        name=order.trial_name(number),
        params=params,
        changes=json.loads(json.dumps(dict(changes))),
        state=state,
        score=list(scores.values())[-1] if scores else None,
        scores={epoch: score for epoch, score in scores.items() if is_score(score)},
        steps=last_step,
        epochs=round(epochs.get(last_step, 0.0), 3),
        reason=reason,
        run_id=None if run is None else run.run_id,
        needed_bytes=needed_bytes,
    )


def explain(error: Exception) -> str:
    """One sentence of why a trial failed."""
    text = str(error).strip() or "no reason given"
    if isinstance(error, BtRayError):
        return text
    return f"{type(error).__name__}: {text.splitlines()[-1][:300]}"
