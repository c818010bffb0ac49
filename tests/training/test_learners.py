"""One loop, many learners: a learner that the loop has never heard of trains, stops, goes on."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from bt_ray.config import Settings, override
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.batches import Batch, local_batches
from bt_ray.data.stream.plan import build_plan
from bt_ray.distributed.collectives import sum_for_replicas
from bt_ray.distributed.gradients import data_parallel
from bt_ray.methods.barlow_twins import BarlowTwinsLearner
from bt_ray.methods.learner import Embedded, Outcome, Probing, WholeStep
from bt_ray.model.inputs import to_input
from bt_ray.training.loop import train
from tests.training.test_loop import CPU, MemoryContext
from tests.workers import run_workers


class MeanTeacher:
    """Predicts the outputs of a moving average of its own weights: state that no optimizer has."""

    rate_name, rate_setting, probes_untrained = "weight_rate", "optimizer.weight_rate", False

    def __init__(self, settings: Settings) -> None:
        torch.manual_seed(settings.training.seed)
        self._settings = settings
        student, teacher = (nn.Sequential(nn.Flatten(), nn.Linear(192, 8)) for _ in range(2))
        self.module = nn.ModuleDict({"student": student, "teacher": teacher.requires_grad_(False)})
        self.optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9)
        self.optimizer.param_groups[0]["peak_lr"] = 0.1
        self.steps_seen: list[int] = []
        self.begun = 0

    def begin(self) -> None:
        self.begun += 1

    def embed(self, batch: Batch) -> Embedded:
        view_a, view_b = (to_input(view, self._settings) for view in batch.views)
        return self.module["student"](view_a), self.module["teacher"](view_b)

    def objective(self, embedded: Embedded) -> Outcome:
        ours, theirs = embedded
        error = mse_loss(ours, theirs, reduction="sum") / self._settings.data.global_batch
        return Outcome(sum_for_replicas(error), {"scale": theirs.norm().detach()}, embedded)

    def rate_factor(self, step: int) -> float:
        return 1 / (step + 1)

    def after_step(self, step: int) -> None:
        self.steps_seen.append(step)
        pairs = zip(*(self.module[n].parameters() for n in ("teacher", "student")), strict=True)
        with torch.no_grad():
            for of_teacher, of_student in pairs:
                of_teacher.lerp_(of_student, 0.25)


def go(settings: Settings, folder: Path, start: int = 0) -> tuple[MeanTeacher, MemoryContext]:
    shards = ShardSet.open(settings.data.train)
    steps_per_epoch = build_plan(settings, shards.manifest).steps_per_epoch
    stop = steps_per_epoch * settings.schedule.epochs
    learner, context = MeanTeacher(settings), MemoryContext(folder)
    train(
        learner,
        settings,
        steps_per_epoch=steps_per_epoch,
        batches=local_batches(settings, shards, start=start, stop=stop, device=CPU),
        context=context,
        probe=lambda module: Probing(
            measures={"probe/weight": float(module["student"][1].weight.detach().norm())}
        ),
        resume=folder / str(start) if start else None,
    )
    return learner, context


def test_a_new_learner_trains_and_goes_on_bit_for_bit(
    small_settings: Settings, tmp_path: Path
) -> None:
    whole, first = go(small_settings, tmp_path / "whole")
    assert (whole.begun, whole.steps_seen) == (1, [1, 2, 3, 4, 5, 6])
    (tmp_path / "whole").rename(tmp_path / "cut")
    for later in (4, 5, 6):
        (tmp_path / "cut" / str(later)).rename(tmp_path / f"later-{later}")
    resumed, second = go(small_settings, tmp_path / "cut", start=3)
    assert (resumed.begun, resumed.steps_seen) == (0, [4, 5, 6])
    for name, value in whole.module.state_dict().items():
        assert torch.equal(value, resumed.module.state_dict()[name]), name
    lines = [{s: m for s, m in c.reports if "train/loss" in m} for c in (first, second)]
    assert set(lines[0]) == {1, 2, 3, 4, 5, 6}
    assert set(lines[1]) == {4, 5, 6}
    for step, measures in lines[1].items():
        for name in ("train/loss", "train/scale", "train/weight_rate"):
            assert measures[name] == lines[0][step][name]
    assert [m for _, m in first.reports if "probe/weight" in m], "the probe is asked"
    assert not first.kept, "a probe without arrays leaves none"


def _grads(rank: int, world_size: int, settings: Settings) -> dict[str, torch.Tensor]:
    """The first step's gradients of the whole step, and of its two halves called apart."""
    found = {}
    for way in ("whole", "halves"):
        learner = BarlowTwinsLearner(settings, CPU, steps_per_epoch=1)
        parallel = data_parallel(WholeStep(learner))
        [batch] = local_batches(
            settings, ShardSet.open(settings.data.train), start=0, stop=1, device=CPU,
            rank=rank, world_size=world_size,
        )  # fmt: skip
        outcome = parallel(batch) if way == "whole" else learner.objective(learner.embed(batch))
        found[f"{way} loss"] = outcome.loss.detach()
        if way == "whole" or world_size == 1:
            outcome.loss.backward()
            found |= {f"{way} {n}": p.grad for n, p in learner.module.named_parameters()}
    return found


@pytest.mark.run
def test_the_halves_are_the_whole(small_settings: Settings) -> None:
    settings = override(small_settings, {"data.global_batch": 32})
    alone = run_workers(1, _grads, settings)[0]
    for name in [n.removeprefix("whole ") for n in alone if n.startswith("whole ")]:
        assert torch.equal(alone[f"whole {name}"], alone[f"halves {name}"]), name
    for told in run_workers(2, _grads, settings):
        assert torch.equal(told["whole loss"], told["halves loss"])


def test_a_new_learner_trains_in_parts(small_settings: Settings, tmp_path: Path) -> None:
    """To the weights of the whole batch; and the loop goes on with it bit for bit."""
    whole, first = go(small_settings, tmp_path / "whole")
    parted = override(small_settings, {"training.micro_batch": 50})
    parts, second = go(parted, tmp_path / "parts")
    for name, value in whole.module.state_dict().items():
        torch.testing.assert_close(parts.module.state_dict()[name], value, rtol=1e-4, atol=1e-4)
    lines = [[m["train/loss"] for _, m in c.reports if "train/loss" in m] for c in (first, second)]
    assert lines[1] == pytest.approx(lines[0], rel=1e-5)
    for later in (4, 5, 6):
        shutil.rmtree(tmp_path / "parts" / str(later))
    resumed, _ = go(parted, tmp_path / "parts", start=3)
    for name, value in parts.module.state_dict().items():
        assert torch.equal(resumed.module.state_dict()[name], value), name
