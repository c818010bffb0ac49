"""The best checkpoint, and a run that ends when no better one comes."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from torch import nn

from bt_ray.checkpoints.best import best_checkpoint
from bt_ray.checkpoints.checkpoint import (
    find_checkpoint,
    last_checkpoint,
    verify_checkpoint,
)
from bt_ray.checkpoints.manifest import MANIFEST
from bt_ray.checkpoints.state import Best
from bt_ray.config import Settings, differences, override
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.batches import local_batches
from bt_ray.data.stream.plan import build_plan
from bt_ray.errors import CheckpointError, SettingsError
from bt_ray.evaluation.encoder import open_encoder
from bt_ray.evaluation.probe import Probe
from bt_ray.evaluation.score import VALIDATION_SCORE
from bt_ray.methods.barlow_twins import BarlowTwinsLearner
from bt_ray.methods.learner import Probing
from bt_ray.model.weights import ENCODER, fingerprint
from bt_ray.tracking.tracker import METRICS, read_history
from bt_ray.training.assignment import Pretraining
from bt_ray.training.carry_out import carry_out
from bt_ray.training.launch import pretrain
from bt_ray.training.local import train_here
from bt_ray.training.loop import train
from bt_ray.training.stop import StopRequest
from bt_ray.training.validation import prepare_validation
from tests.training.test_loop import CPU, MemoryContext
from tests.workers import run_workers

SCORES = [0.2, 0.5, 0.4, 0.3, 0.1, 0.9]
"""Of the probes after steps 1, 2, …; the second one is the best until the sixth."""


def scored(settings: Settings, **changes: object) -> Settings:
    """Two steps an epoch, three epochs, a probe after each step; checkpoints are due at the end."""
    return override(
        settings,
        {
            "training.probe_every_epochs": 0.5,
            "training.checkpoint_every_epochs": 3,
            "scaling.workers": 0,
            **{f"training.{name}": value for name, value in changes.items()},
        },
    )


def probing(scores: list[float], steps: list[int], first: int) -> Callable[[nn.Module], Probing]:
    """A probe with these scores, of step 0 none; `steps` becomes the number of calls so far."""

    def probe(module: nn.Module) -> Probing:
        step = first + len(steps)
        steps.append(step)
        return Probing(measures={} if step == 0 else {VALIDATION_SCORE: scores[step - 1]})

    return probe


def go(
    settings: Settings,
    folder: Path,
    start: int = 0,
    scores: list[float] = SCORES,
    rank: int = 0,
    world_size: int = 1,
) -> tuple[list[int], MemoryContext]:
    """Trains with these scores; the steps that were probed, and what was reported."""
    shards = ShardSet.open(settings.data.train)
    context, probed = MemoryContext(folder, rank=rank), list[int]()
    train(
        BarlowTwinsLearner(settings, CPU, steps_per_epoch=2),
        settings,
        steps_per_epoch=2,
        batches=local_batches(
            settings, shards, start=start, stop=6, device=CPU, rank=rank, world_size=world_size
        ),
        context=context,
        probe=probing(scores, probed, start + (start > 0)),
        resume=folder / str(start) if start else None,
    )
    return probed, context


def reported(context: MemoryContext, name: str) -> list[tuple[int, float]]:
    return [(step, measures[name]) for step, measures in context.reports if name in measures]


def checkpoints(folder: Path) -> list[int]:
    return sorted(int(found.name) for found in folder.iterdir())


def test_each_better_probe_has_a_checkpoint_of_its_step(
    small_settings: Settings, tmp_path: Path
) -> None:
    """They say so themselves; without being asked for, none is made."""
    _, context = go(scored(small_settings, keep_best=True), tmp_path / "asked")
    assert checkpoints(tmp_path / "asked") == [1, 2, 6]
    assert reported(context, "best/step") == [(1, 1), (2, 2), (3, 2), (4, 2), (5, 2), (6, 6)]
    assert [score for _, score in reported(context, "best/score")] == [0.2, *[0.5] * 4, 0.9]
    for step in (1, 2, 6):
        record = verify_checkpoint(tmp_path / "asked" / str(step))
        assert record["best"] == {"step": step, "score": SCORES[step - 1]}
    _, context = go(scored(small_settings), tmp_path / "not")
    assert checkpoints(tmp_path / "not") == [6]
    assert reported(context, "best/step") == []


def test_a_run_ends_when_its_patience_does_and_stays_so(
    small_settings: Settings, tmp_path: Path
) -> None:
    settings, folder = scored(small_settings, patience=2), tmp_path / "run"
    probed, _ = go(settings, folder)
    assert probed == [0, 1, 2, 3, 4]
    assert checkpoints(folder) == [1, 2, 4]
    assert verify_checkpoint(folder / "4")["probes_since_best"] == 2
    assert go(settings, folder, start=4)[0] == [], "the same command does nothing"
    assert go(scored(small_settings, patience=4), folder, start=4)[0] == [5, 6]


@pytest.mark.parametrize("score", [float("nan"), float("inf"), 0.5])
def test_a_score_that_is_not_finite_or_only_as_good_is_no_better(
    small_settings: Settings, tmp_path: Path, score: float
) -> None:
    scores = [0.5, score, score, score, score, score]
    assert go(scored(small_settings, patience=3), tmp_path, scores=scores)[0][-1] == 4


def test_the_count_survives_a_restart(small_settings: Settings, tmp_path: Path) -> None:
    """Interrupted after step 3, one probe into its patience, it ends as if it had not been."""
    settings = override(
        scored(small_settings, patience=3), {"training.checkpoint_every_epochs": 0.5}
    )
    whole, again = tmp_path / "whole", tmp_path / "again"
    go(settings, whole)
    shutil.copytree(whole, again)
    for later in (4, 5):
        shutil.rmtree(again / str(later))
    assert go(settings, again, start=3)[0] == [4, 5]
    assert checkpoints(whole) == checkpoints(again) == [1, 2, 3, 4, 5]
    for file in (whole / "5").iterdir():
        assert file.read_bytes() == (again / "5" / file.name).read_bytes(), file.name


def _of_worker(
    rank: int, world_size: int, settings: Settings, folder: Path
) -> tuple[list[int], list[tuple[int, float]]]:
    """The second worker measures other scores, by which it would go on to the end."""
    scores = SCORES if rank == 0 else [0.1 * step for step in range(1, 7)]
    probed, context = go(settings, folder, scores=scores, rank=rank, world_size=world_size)
    return probed, reported(context, "best/step")


@pytest.mark.run
def test_workers_end_at_the_same_step_by_the_score_of_the_first(
    small_settings: Settings, tmp_path: Path
) -> None:
    settings = override(scored(small_settings, patience=2), {"data.global_batch": 32})
    first, second = run_workers(2, _of_worker, settings, tmp_path)
    assert first == second
    assert first[0] == [0, 1, 2, 3, 4]


def test_neither_patience_nor_what_is_kept_makes_another_run(small_settings: Settings) -> None:
    patient = scored(small_settings, patience=2, keep_best=True)
    assert differences(patient, scored(small_settings)) == []
    assert differences(scored(small_settings, average_decay=0.9), scored(small_settings)) == [
        "training.average_decay"
    ]


# --- what is kept, and where


@pytest.fixture
def by_script(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The scores that the next probes of validation images come to; of the untrained one, 0."""
    scores = [0.0, *SCORES]
    monkeypatch.setattr(Probe, "_score_validation", lambda *_: {VALIDATION_SCORE: scores.pop(0)})
    return scores


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.mark.run
def test_the_best_checkpoint_is_kept_though_newer_ones_come(
    small_settings: Settings, by_script: list[float]
) -> None:
    """Bit for bit what a run that ends there has; the run does not go on from it."""
    settings = override(
        prepare_validation(scored(small_settings, keep_best=True)),
        {"training.checkpoint_every_epochs": 0.5},
    )
    storage = Path(settings.storage)
    train_here(Pretraining(override(settings, {"name": "whole"})), 4)
    by_script[:] = [0.0, *SCORES]
    short = override(settings, {"name": "short"})
    train_here(Pretraining(short), 2)
    assert sorted(f.name for f in (storage / "whole" / "local").iterdir()) == [
        "checkpoint_000000003", "checkpoint_000000004",
    ]  # fmt: skip
    best = best_checkpoint(storage / "whole")
    assert best == (storage / "whole" / "best" / "checkpoint_000000002", Best(2, 0.5))
    theirs, step = last_checkpoint(storage / "short")
    assert theirs is not None
    ours = files(best[0])
    for name, content in files(theirs).items():
        if name not in ("settings.json", MANIFEST):  # they have the run's name
            assert ours[name] == content, name
    assert (step, last_checkpoint(storage / "whole")[1]) == (2, 4)
    assert find_checkpoint(storage / "whole" / "best") == best[0]
    opened, _ = open_encoder(str(storage / "whole" / "best"), settings)
    last, _ = open_encoder(str(storage / "whole"), settings)
    assert fingerprint(opened.encoder) != fingerprint(last.encoder)
    (best[0] / ENCODER).write_bytes(b"cut")
    with pytest.raises(CheckpointError, match="cut short or altered"):
        open_encoder(str(storage / "whole" / "best"), settings)


@pytest.mark.run
def test_a_run_out_of_patience_is_finished(
    small_settings: Settings, by_script: list[float]
) -> None:
    """Its summary says so, it is registered by its best, and the same command does no step more."""
    settings = scored(small_settings, patience=2)
    summary = pretrain(settings, which="best")
    assert (summary.steps, summary.total_steps, summary.is_finished) == (4, 6, True)
    assert summary.best == {"step": 2, "score": 0.5}
    assert summary.paths["best"].endswith("best/checkpoint_000000002")
    assert summary.model_version == "barlow-small/1"
    told = " ".join(summary.warnings)
    assert "the last 2 probes had no better score" in told
    assert "40 images are held out to score probes by (data.validation), and not trained" in told
    registered, run = open_encoder("models:/barlow-small/1", settings)
    best, _ = open_encoder(f"{summary.paths['run']}/best", settings)
    assert fingerprint(registered.encoder) == fingerprint(best.encoder)
    assert run is not None
    assert read_history(Path(summary.paths["run"]) / METRICS)["best/step"][4] == 2
    again = pretrain(settings, which="best")
    assert (again.steps, again.run_id, again.model_version) == (4, run.run_id, "barlow-small/1")
    more = pretrain(override(settings, {"training.patience": 9}), register=False)
    assert (more.steps, more.is_finished, more.best) == (6, True, {"step": 6, "score": 0.9})
    assert asdict(more)["best"]["step"] == 6


@pytest.mark.run
def test_a_time_limit_interrupts_patience_and_does_not_end_it(
    small_settings: Settings, by_script: list[float]
) -> None:
    settings = prepare_validation(scored(small_settings, patience=2))
    total = build_plan(settings, ShardSet.open(settings.data.train).manifest).steps_per_epoch * 3
    assignment, stop = Pretraining(settings), StopRequest()
    stop.make()
    carry_out(assignment, total, stop)
    assert last_checkpoint(assignment.run_folder)[1] == 1
    for _ in range(2):  # the second time it is done
        carry_out(assignment, total, StopRequest())
        assert last_checkpoint(assignment.run_folder)[1] == 4


def test_the_best_cannot_be_registered_where_none_is_kept(small_settings: Settings) -> None:
    with pytest.raises(SettingsError, match=r"add --training\.keep-best"):
        pretrain(small_settings, which="best")
