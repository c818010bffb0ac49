import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from bt_ray.checkpoints.checkpoint import verify_checkpoint
from bt_ray.config import Settings, override
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.batches import local_batches, stream_batches, to_batch
from bt_ray.data.stream.decode import make_views, read_steps
from bt_ray.data.stream.plan import build_plan
from bt_ray.distributed.gradients import data_parallel
from bt_ray.errors import NonFiniteLossError, PlanError
from bt_ray.evaluation.probe import build_probe
from bt_ray.methods.barlow_twins import BarlowTwinsLearner
from bt_ray.model.inputs import to_input
from bt_ray.model.twins import Twins
from bt_ray.objective.build import build_objective
from bt_ray.tracking.snapshots import Arrays
from bt_ray.training.background import begin_beside, done
from bt_ray.training.loop import train
from tests.states import build_state
from tests.workers import run_workers

CPU = torch.device("cpu")


@dataclass
class MemoryContext:
    """Keeps reports in memory and checkpoints in a folder."""

    folder: Path
    rank: int = 0
    device: torch.device = CPU
    reports: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    kept: dict[int, Arrays] = field(default_factory=dict)
    quarantined: list[int] = field(default_factory=list)

    def report(self, step: int, measures: dict[str, float]) -> None:
        self.reports.append((step, measures))

    def quarantine(self, rows: Sequence[int]) -> None:
        self.quarantined += rows

    def keep(self, step: int, arrays: Arrays) -> None:
        self.kept[step] = arrays

    def commit(self, step: int, write: Callable[[Path], None] | None) -> Future[None]:
        if write is None:
            return done()
        return begin_beside(partial(write, self.folder / str(step)), "checkpoint")

    def wants_stop(self) -> bool:
        return False

    def must_leave(self) -> bool:
        return False


def run(settings: Settings, folder: Path, start: int = 0) -> tuple[Twins, MemoryContext]:
    shards = ShardSet.open(settings.data.train)
    plan = build_plan(settings, shards.manifest)
    stop = plan.steps_per_epoch * settings.schedule.epochs
    context = MemoryContext(folder)
    learner = BarlowTwinsLearner(settings, CPU, steps_per_epoch=plan.steps_per_epoch)
    train(
        learner,
        settings,
        steps_per_epoch=plan.steps_per_epoch,
        batches=local_batches(settings, shards, start=start, stop=stop, device=CPU),
        context=context,
        probe=build_probe(settings, CPU),
        resume=folder / str(start) if start else None,
    )
    return learner.module, context


def assert_equal(one: Twins, other: Twins) -> None:
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_three_and_three_steps_equal_six_bit_for_bit(
    small_settings: Settings, tmp_path: Path
) -> None:
    whole, first = run(small_settings, tmp_path)
    assert sorted(int(f.name) for f in tmp_path.glob("[0-9]*")) == [1, 2, 3, 4, 5, 6]
    for later in (4, 5, 6):
        shutil.rmtree(tmp_path / str(later))
    resumed, second = run(small_settings, tmp_path, start=3)
    assert_equal(whole, resumed)
    losses = [
        [(s, m["train/loss"]) for s, m in c.reports if "train/loss" in m] for c in (first, second)
    ]
    assert losses[0][3:] == losses[1]
    assert list(first.kept) == [0, 6]
    assert list(second.kept) == [6], "the start of the run is not probed again"
    for name, array in first.kept[6].items():
        np.testing.assert_array_equal(second.kept[6][name], array)


def test_a_run_reports_and_improves(small_settings: Settings, tmp_path: Path) -> None:
    settings = override(small_settings, {"schedule.epochs": 8})
    _, context = run(settings, tmp_path)
    losses = [m["train/loss"] for _, m in context.reports if "train/loss" in m]
    assert losses[-1] < 0.8 * losses[0]
    probes = [m for _, m in context.reports if "knn/top1" in m]
    assert len(probes) == 4  # before, after epochs 3 and 6, and at the end
    assert list(context.kept) == [0, 16]
    diagonals = [np.diag(arrays["cross_correlation"]).mean() for arrays in context.kept.values()]
    assert diagonals[1] > diagonals[0] + 0.1
    assert 0.5 < probes[0]["knn/top1"] <= 1
    last = [m for _, m in context.reports if "time/images_per_s" in m][-1]
    assert last["time/images_per_s"] > 0
    assert 0 <= last["time/data_wait_share"] <= 1


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_follows_float32(
    small_settings: Settings, tmp_path: Path, precision: str
) -> None:
    losses = []
    for name in ("fp32", precision):
        settings = override(small_settings, {"training.precision": name, "schedule.epochs": 1})
        _, context = run(settings, tmp_path / name)
        losses.append([m["train/loss"] for _, m in context.reports if "train/loss" in m])
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert losses[1] != losses[0]


def test_photometry_may_run_on_the_device(
    small_settings: Settings, digits_test_shards: ShardSet
) -> None:
    """On grey digits both places agree to the rounding of the blur."""
    changes = {
        "views.image_px": 32,
        "views.blur_probability": [1.0, 0.5],
        "views.solarize_probability": [0.0, 0.5],
    }
    plan = build_plan(small_settings, digits_test_shards.manifest)
    table = read_steps(digits_test_shards, plan, 0, 1)
    batches = []
    for place in ("loader", "device"):
        settings = override(small_settings, {**changes, "views.photometry": place})
        columns = make_views(table, settings, plan.steps_per_epoch)
        batches.append(to_batch(columns, settings, plan.steps_per_epoch, CPU))
    for ours, reference in zip(batches[1].views, batches[0].views, strict=True):
        assert (ours - reference.float()).abs().mean() < 1


def test_a_non_finite_loss_stops_the_run_and_names_the_step(
    small_settings: Settings, tmp_path: Path
) -> None:
    settings = override(
        small_settings, {"optimizer.weight_rate": 1e38, "schedule.warmup_epochs": 0}
    )
    with pytest.raises(
        NonFiniteLossError, match=r"at step \d: the embeddings of worker 0 are not finite"
    ):
        run(settings, tmp_path)


def test_rows_out_of_place_are_refused(
    small_settings: Settings, digits_test_shards: ShardSet
) -> None:
    plan = build_plan(small_settings, digits_test_shards.manifest)
    blocks = [
        make_views(read_steps(digits_test_shards, plan, step, step + 1), small_settings, 2)
        for step in (0, 0)
    ]
    stream = stream_batches(
        blocks, small_settings, start=0, rank=0, world_size=1, steps_per_epoch=2, device=CPU
    )
    next(stream)
    with pytest.raises(PlanError, match="of step 1 and got 128 rows from slot 0 of step 0"):
        next(stream)


def _follow(
    rank: int, world_size: int, settings: Settings, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Losses, first gradients and last weights of one worker's part of a few steps."""
    state = build_state(settings, CPU)
    state.module.to(dtype)
    twins, objective = data_parallel(state.module), build_objective(settings.objective)
    shards = ShardSet.open(settings.data.train)
    told: dict[str, Tensor] = {}
    losses = []
    for batch in local_batches(
        settings, shards, start=0, stop=4, device=CPU, rank=rank, world_size=world_size
    ):
        result = objective(*twins(*(to_input(v, settings).to(dtype) for v in batch.views)))
        result.loss.backward()
        if not losses:
            told |= {f"grad {n}": p.grad.clone() for n, p in state.module.named_parameters()}  # type: ignore[union-attr]
        losses.append(result.loss.detach())
        for group in state.optimizer.param_groups:
            group["lr"] = 0.1 * group["peak_lr"]
        state.optimizer.step()
        state.optimizer.zero_grad()
    told["losses"] = torch.stack(losses)
    return told | {f"weight {n}": v for n, v in state.module.state_dict().items()}


@pytest.mark.run
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model.predictor_widths": [32, 64], "model.stop_gradient": True},
        {"model.projector_batch_norm": False, "objective.variant": "cross_covariance"},
    ],
)
def test_any_number_of_workers_follows_the_same_curve(
    small_settings: Settings, changes: dict[str, object]
) -> None:
    """Loss, every gradient, biases' included, and the weights after four steps, in float64.

    Three workers have 11, 11 and 10 images.
    """
    settings = override(small_settings, {"data.global_batch": 32, **changes})
    expected = run_workers(1, _follow, settings, torch.float64)[0]
    for world_size in (2, 3, 4):
        for told in run_workers(world_size, _follow, settings, torch.float64):
            for name, value in expected.items():
                error = (told[name] - value).double().norm() / value.double().norm().clamp(
                    min=1e-12
                )
                assert error < 1e-10, (world_size, name, float(error))


@dataclass
class NoticedContext(MemoryContext):
    """Hears after three steps that its node will be taken away, and maybe of a stop, too."""

    also_stops: bool = False
    looks: int = 0

    def must_leave(self) -> bool:
        self.looks += 1
        return self.looks == 3

    def wants_stop(self) -> bool:
        return self.also_stops and self.looks == 2


@pytest.mark.parametrize("also_stops", [False, True])
def test_a_notice_ends_training_at_once_after_a_checkpoint(
    small_settings: Settings, tmp_path: Path, also_stops: bool
) -> None:
    """A run that shall stop does not go on elsewhere."""
    settings = override(small_settings, {"training.checkpoint_every_epochs": 3})
    shards = ShardSet.open(settings.data.train)
    folder = tmp_path / "run"
    context = NoticedContext(folder, also_stops=also_stops)
    goes_on = train(
        BarlowTwinsLearner(settings, CPU, steps_per_epoch=2),
        settings,
        steps_per_epoch=2,
        batches=local_batches(settings, shards, start=0, stop=6, device=CPU),
        context=context,
        probe=build_probe(settings, CPU),
    )
    assert goes_on is not also_stops
    assert [step for step, measures in context.reports if "train/loss" in measures] == [1, 2, 3]
    assert [found.name for found in folder.iterdir()] == ["3"]
    assert verify_checkpoint(folder / "3")["step"] == 3
