"""Whole sweeps on a real Ray cluster: what is found, what fails, what is gone on with."""

import contextlib
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import psutil
import pytest
from mlflow import MlflowClient
from optuna import Trial
from optuna.trial import TrialState

from bt_ray.config import Settings, override
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.errors import LaunchError, SettingsError
from bt_ray.method_presets import with_method
from bt_ray.training.run_folder import sole_owner
from bt_ray.tuning.order import SweepOrder
from bt_ray.tuning.progress import SweepProgress
from bt_ray.tuning.space import Changes, SearchSpace, load_space
from bt_ray.tuning.sweep import sweep

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


@pytest.fixture
def in_process(small_settings: Settings) -> Settings:
    """Trials that train in their own process."""
    return override(small_settings, {"scaling.workers": 0, "training.probe_every_epochs": 1})


def propose_kind(trial: Trial) -> Changes:
    """Trials that go well, that raise, whose loss is not finite, that take long."""
    kind = trial.suggest_categorical("kind", ["good", "raises", "diverges", "long"])
    return {
        "model.start_from": "nowhere" if kind == "raises" else None,
        "optimizer.weight_rate": 1e38 if kind == "diverges" else 0.2,
        "schedule.epochs": 40 if kind == "long" else 3,
    }


KINDS = SearchSpace(
    name="kinds",
    propose=propose_kind,
    points=({"kind": "raises"}, {"kind": "diverges"}, {"kind": "good"}, {"kind": "long"}),
)


class Killer:
    """Kills the process of a trial three times, whenever it has trained a little."""

    def __init__(self, run_folder: Path) -> None:
        self._metrics = run_folder / "metrics.jsonl"
        self.kills = 0
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> "Killer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(timeout=60)

    def _work(self) -> None:
        size = 0
        while self.kills < 3:
            time.sleep(0.05)
            if self._metrics.is_file() and self._metrics.stat().st_size > size:
                for process in psutil.Process().children(recursive=True):
                    with contextlib.suppress(psutil.NoSuchProcess, IndexError):
                        if process.cmdline()[0].startswith("ray::ImplicitFunc"):
                            process.kill()
                            process.wait(10)
                            self.kills += 1
                size = self._metrics.stat().st_size


def load_study(summary_paths: dict[str, str], name: str) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=summary_paths["study"])


def test_a_sweep_ends_in_a_champion(small_settings: Settings) -> None:
    settings = override(small_settings, {"scaling.workers": 2, "scaling.cpus_per_worker": 0.5})
    seen: list[SweepProgress] = []
    summary = sweep(
        load_space("redundancy_weight"),
        settings,
        SweepOrder(trials=2, seeds=1, pruning="none"),
        on_progress=seen.append,
    )
    assert summary.score == "knn_top1"
    assert [trial.state for trial in summary.trials] == ["finished", "finished"]
    assert summary.trials[0].params == {"redundancy_weight": 5e-3}  # the paper's comes first
    assert 5e-4 <= summary.trials[1].params["redundancy_weight"] <= 5e-2
    assert summary.best is not None
    assert summary.best.score == max(trial.score or 0.0 for trial in summary.trials)
    assert summary.verdict is not None
    assert summary.verdict.model_version == "barlow-small/1"
    assert summary.verdict.is_champion
    assert summary.verdict.scores["knn_top1"] > 0.3
    assert seen[-1].num_ended == 2
    assert {row.state for row in seen[-1].rows} == {"finished"}

    client = MlflowClient(summary.paths["mlflow"])
    parent = client.get_run(summary.run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["best/score"] == summary.best.score
    children = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{summary.run_id}'"
    )
    assert {child.info.status for child in children} == {"FINISHED"}
    assert {child.data.tags["sweep.outcome"] for child in children} == {"finished"}
    key = "objective.redundancy_weight"
    assert {float(child.data.params[key]) for child in children} == {
        trial.changes[key] for trial in summary.trials
    }
    version = client.get_model_version_by_alias("barlow-small", "champion")
    assert version.tags["became_champion"] == "true"
    assert {file.stem for file in Path(summary.paths["figures"]).iterdir()} >= {
        "scores", "slice", "parallel_coordinate",
    }  # fmt: skip


@pytest.mark.cluster
def test_failures_are_recorded_and_end_no_sweep(in_process: Settings) -> None:
    order = SweepOrder(trials=4, seeds=1, pruning="none", at_once=1)
    folder = Path(in_process.storage) / "sweeps" / "kinds-small"
    with Killer(folder / "runs" / "kinds-small-003") as killer:
        summary = sweep(KINDS, in_process, order)
    raises, diverges, good, killed = summary.trials
    assert [trial.state for trial in summary.trials] == [
        "failed", "diverged", "finished", "failed",
    ]  # fmt: skip
    assert "nowhere" in str(raises.reason)
    assert "step" in str(diverges.reason)
    assert killer.kills == 3  # two restarts, and no more
    assert "Its process died" in str(killed.reason)
    assert "started 3 times" in str(killed.reason)
    assert summary.best == good
    study = load_study(summary.paths, summary.name)
    assert [trial.state for trial in study.trials] == [
        TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE, TrialState.FAIL,
    ]  # fmt: skip
    assert study.trials[1].value == 0.0
    client = MlflowClient(summary.paths["mlflow"])
    for record, status in ((diverges, "FAILED"), (good, "FINISHED"), (killed, "FAILED")):
        run = client.get_run(str(record.run_id))
        assert run.info.status == status
        assert run.data.tags["sweep.outcome"] == record.state

    again = sweep(KINDS, in_process, order)  # nothing is left to do
    assert again.trials == summary.trials
    assert again.verdict == replace(
        summary.verdict,  # type: ignore[type-var]
        champion="barlow-small/1",
        sentence=again.verdict.sentence,  # type: ignore[union-attr]
    )
    mended = sweep(KINDS, in_process, replace(order, retry_failed=True))
    assert [trial.state for trial in mended.trials] == [
        "failed", "diverged", "finished", "finished",
    ]  # fmt: skip
    assert mended.trials[1:3] == summary.trials[1:3]  # which were not run again
    assert mended.trials[3].epochs == 40


def propose_rate(trial: Trial) -> Changes:
    """Trials that learn, and some that unlearn what random weights know."""
    learns = trial.suggest_categorical("learns", [True, False])
    return {"optimizer.weight_rate": 0.2 if learns else 50.0}


@pytest.mark.slow
def test_a_trial_that_lags_is_pruned_at_a_step(in_process: Settings) -> None:
    space = SearchSpace(
        name="rates", propose=propose_rate, points=({"learns": True}, {"learns": False})
    )
    # So many that the verdict reaches the trial before its end on a busy machine, too.
    settings = override(in_process, {"schedule.epochs": 24})
    summary = sweep(space, settings, SweepOrder(trials=2, seeds=1, at_once=1, grace_epochs=4))
    learns, lags = summary.trials
    assert (learns.state, lags.state) == ("finished", "pruned")
    assert 4 <= lags.epochs < 24
    trial = load_study(summary.paths, summary.name).trials[1]
    assert trial.state == TrialState.PRUNED
    assert trial.intermediate_values == {round(e): s for e, s in lags.scores.items()}
    run = MlflowClient(summary.paths["mlflow"]).get_run(str(lags.run_id))
    assert run.info.status == "KILLED"
    assert run.data.tags["sweep.pruned_at_step"] == str(lags.steps)


@pytest.mark.slow
def test_without_labels_rank_and_alignment_decide(
    in_process: Settings, digits_test_shards: ShardSet, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    table = digits_test_shards.read(np.arange(5))
    for name, image in zip(range(len(table)), table["image"].to_pylist(), strict=True):
        (bare / f"{name:04d}.png").write_bytes(image)
    settings = override(in_process, {"data.train": str(bare), "data.test": None})
    with pytest.raises(SettingsError, match="changes the views"):
        sweep(load_space("augmentations"), settings, SweepOrder(trials=1))
    summary = sweep(load_space("redundancy_weight"), settings, SweepOrder(trials=1, seeds=1))
    assert summary.score == "rankme_cosine"
    assert summary.best is not None
    assert summary.best.score is not None
    assert summary.best.score > 1
    assert summary.verdict is not None
    # The held-out images are all there is to judge by; in fp32 they are judged alike.
    assert summary.verdict.scores["rankme_cosine"] == pytest.approx(summary.best.score, rel=1e-3)


def test_a_sweep_that_is_going_or_of_other_settings_is_refused(in_process: Settings) -> None:
    space = load_space("redundancy_weight")
    folder = Path(in_process.storage) / "sweeps" / "redundancy_weight-small"
    with (
        sole_owner(folder, "sweep"),
        pytest.raises(LaunchError, match=r"The sweep 'redundancy_weight-small' .* going already"),
    ):
        sweep(space, in_process, SweepOrder(trials=1))
    (folder / "study.db").write_bytes(b"no database" * 100)
    with pytest.raises(LaunchError, match="not a database"):
        sweep(space, in_process, SweepOrder(trials=1))
    other = override(in_process, {"schedule.epochs": 2})
    with pytest.raises(SettingsError, match=r"other settings \(schedule.epochs\)"):
        sweep(space, other, SweepOrder(trials=1))


@pytest.mark.slow
def test_a_method_s_own_settings_are_searched(in_process: Settings) -> None:
    """Two temperatures of SimCLR, the paper's first, each a trial that trains by it."""
    settings = with_method(in_process, "simclr")
    order = SweepOrder(trials=2, seeds=1, pruning="none")
    summary = sweep(load_space("simclr"), settings, order)
    assert [trial.state for trial in summary.trials] == ["finished", "finished"]
    temperatures = [trial.changes["objective.simclr.temperature"] for trial in summary.trials]
    assert temperatures[0] == 0.1
    assert temperatures[1] != 0.1
