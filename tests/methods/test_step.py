"""A step in parts has the loss, the gradients and the side effects of the whole one."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from bt_ray.config import Settings, override
from bt_ray.config.training import part_rows
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.batches import Batch, local_batches
from bt_ray.distributed import gradients
from bt_ray.distributed.collectives import sum_for_replicas
from bt_ray.errors import SettingsError
from bt_ray.forecast.memory import saved_storages
from bt_ray.methods.barlow_twins import BarlowTwinsLearner
from bt_ray.methods.learner import Embedded, Outcome
from bt_ray.methods.step import StepAtOnce, StepInParts, build_step
from bt_ray.model.inputs import to_input
from tests.workers import run_workers

CPU = torch.device("cpu")


class Plain:
    """A learner that the loop has never heard of: no batch norm in `embed`, dropout, a row without
    a gradient, a tensor of whole numbers, a weight that both halves use."""

    rate_name = rate_setting = "rate"
    probes_untrained = False

    def __init__(self, *, dropout: float = 0.0, batch: int) -> None:
        torch.manual_seed(3)
        self._batch = batch
        width = 3 * 8 * 8
        self.module = nn.ModuleDict(
            {
                "encoder": nn.Sequential(
                    nn.Flatten(), nn.Linear(width, 12), nn.Dropout(dropout), nn.Tanh()
                ),
                "shared": nn.Linear(12, 12),
                "teacher": nn.Linear(width, 4).requires_grad_(False),
                "head": nn.Sequential(nn.Linear(12, 4), nn.Dropout(dropout)),
            }
        ).double()
        self.optimizer = torch.optim.SGD(self.module.parameters(), lr=0.1)

    def begin(self) -> None: ...

    def embed(self, batch: Batch) -> Embedded:
        view_a, view_b = (view.double() / 255 for view in batch.views)
        student = self.module["shared"](self.module["encoder"](view_a))
        return student, self.module["teacher"](view_b.flatten(1)), torch.tensor(batch.samples)

    def objective(self, embedded: Embedded) -> Outcome:
        student, teacher, samples = embedded
        guess = self.module["head"](self.module["shared"](student).tanh())
        weighted = (guess - teacher) * (1 + samples[:, None] % 3)
        share = mse_loss(weighted, torch.zeros_like(weighted), reduction="sum") / self._batch
        return Outcome(sum_for_replicas(share), {}, (guess,))

    def rate_factor(self, step: int) -> float:
        return 1.0

    def after_step(self, step: int) -> None: ...


def first_batch(settings: Settings, rank: int = 0, world_size: int = 1) -> Batch:
    shards = ShardSet.open(settings.data.train)
    return next(
        local_batches(
            settings, shards, start=0, stop=1, device=CPU, rank=rank, world_size=world_size
        )
    )


def _gradients(rank: int, world_size: int, settings: Settings, dropout: float) -> dict[str, Tensor]:
    """Loss and gradients of a scaled loss, after one step from the same random numbers."""
    learner = Plain(dropout=dropout, batch=settings.data.global_batch)
    if rank == 1:  # as if it had begun with other weights: the first one's count
        torch.nn.init.zeros_(learner.module["head"][0].weight)  # type: ignore[index]
    step = build_step(learner, settings)
    batch = first_batch(settings, rank, world_size)
    torch.manual_seed(rank)
    outcome = step.forward(batch)
    step.backward(outcome.loss * 8)
    found = {n: p.grad / 8 for n, p in learner.module.named_parameters() if p.grad is not None}
    return found | {"loss": outcome.loss.detach(), "drawn next": torch.rand(3)}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], within: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        error = float((found[name] - value).norm())
        assert error <= within * float(value.norm()), (name, error)


@pytest.fixture
def settings(small_settings: Settings) -> Settings:
    return override(small_settings, {"data.global_batch": 22})


@pytest.mark.parametrize("micro_batch", [4, 5, 11, 12, 21])
def test_gradients_are_those_of_the_whole_batch(settings: Settings, micro_batch: int) -> None:
    """Also of parts of unequal size."""
    whole = _gradients(0, 1, settings, 0.0)
    parts = _gradients(0, 1, override(settings, {"training.micro_batch": micro_batch}), 0.0)
    assert "teacher.weight" not in whole
    assert_close(parts, whole, 1e-10)


@pytest.mark.run
def test_gradients_of_two_workers_are_those_of_the_whole_batch(settings: Settings) -> None:
    whole = _gradients(0, 1, settings, 0.0)
    whole.pop("drawn next")
    for micro_batch in (None, 3, 4):
        changed = override(settings, {"training.micro_batch": micro_batch})
        for found in run_workers(2, _gradients, changed, 0.0):
            found.pop("drawn next")
            assert_close(found, whole, 1e-10)


def test_random_layers_draw_the_same_in_both_passes(settings: Settings) -> None:
    """With one weight to differentiate by, the gradient is that of the loss that was computed.

    And what is drawn after the step does not depend on how often the parts were computed."""
    learner = Plain(dropout=0.5, batch=22)
    step = StepInParts(learner, (8, 7, 7), None)
    batch = first_batch(settings)
    weight = learner.module["encoder"][1].weight  # type: ignore[index]

    def loss_of(change: float) -> Tensor:
        torch.manual_seed(5)
        with torch.no_grad():
            weight[0, 0] += change
        outcome = step.forward(batch)
        with torch.no_grad():
            weight[0, 0] -= change
        return outcome.loss

    epsilon = 1e-5
    slope = float((loss_of(epsilon) - loss_of(-epsilon)).detach()) / (2 * epsilon)
    loss = loss_of(0.0)
    state = torch.get_rng_state()
    step.backward(loss)
    assert torch.equal(torch.get_rng_state(), state)
    assert weight.grad is not None
    assert float(weight.grad[0, 0]) == pytest.approx(slope, rel=1e-6)
    assert slope != 0


class DoubleLearner(BarlowTwinsLearner):
    """In float64."""

    def __init__(self, settings: Settings, device: torch.device, *, steps_per_epoch: int) -> None:
        super().__init__(settings, device, steps_per_epoch=steps_per_epoch)
        self._given = settings
        self.module.double()

    def embed(self, batch: Batch) -> Embedded:
        view_a, view_b = (to_input(view, self._given).double() for view in batch.views)
        return self.module.represent(view_a, view_b)


def _barlow(
    rank: int, world_size: int, settings: Settings, way: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradients of a step with batch norm in the encoder, and the buffers after it."""
    learner = DoubleLearner(settings, CPU, steps_per_epoch=1)
    batch = first_batch(settings, rank, world_size)
    if way == "by hand":  # what the parts are defined to be, with all graphs in memory
        step = build_step(learner, override(settings, {"training.micro_batch": None}))
        sizes = part_rows(len(batch.samples), settings.training.micro_batch)
        pairs = zip(*(view.split(sizes) for view in batch.views), strict=True)
        pieces = [learner.embed(replace(batch, views=pair)) for pair in pairs]
        outcome = learner.objective(tuple(torch.cat(rows) for rows in zip(*pieces, strict=True)))
        outcome.loss.backward()
        assert isinstance(step, StepAtOnce)
        gradients.sum_gradients(learner.module)
    else:
        step = build_step(learner, settings)
        assert isinstance(step, StepInParts)
        outcome = step.forward(batch)
        step.backward(outcome.loss)
    found = {n: p.grad for n, p in learner.module.named_parameters() if p.grad is not None}
    return found | {"loss": outcome.loss.detach()}, dict(learner.module.named_buffers())


@pytest.mark.run
@pytest.mark.parametrize(("world_size", "encoder"), [(1, "conv4"), (1, "resnet18"), (2, "conv4")])
def test_batch_norm_is_that_of_the_parts_and_moves_once(
    settings: Settings, world_size: int, encoder: str
) -> None:
    """Against the same parts with all their graphs in memory; the projector's sees all rows."""
    changes = {"training.micro_batch": 4, "model.encoder": encoder, "model.stem": "cifar"}
    changed = override(settings, changes)
    expected = run_workers(world_size, _barlow, changed, "by hand")
    for found, wanted in zip(
        run_workers(world_size, _barlow, changed, "parts"), expected, strict=True
    ):
        assert_close(found[0], wanted[0], 1e-10)
        assert found[1].keys() == wanted[1].keys()
        for name, value in wanted[1].items():
            torch.testing.assert_close(found[1][name], value, rtol=1e-12, atol=1e-12, msg=name)
        tracked = {n: int(v) for n, v in found[1].items() if n.endswith("num_batches_tracked")}
        num_parts = len(part_rows(22 // world_size, 4))
        for name, count in tracked.items():
            assert count == 2 * (num_parts if name.startswith("encoder") else 1), name


def test_one_part_at_a_time_is_in_memory(settings: Settings) -> None:
    """What autograd keeps of encoder and objective together, against the whole batch's."""
    kept = {}
    for micro_batch in (None, 4):
        changed = override(settings, {"training.micro_batch": micro_batch})
        learner = BarlowTwinsLearner(changed, CPU, steps_per_epoch=1)
        step, batch = build_step(learner, changed), first_batch(changed)
        with saved_storages() as of_forward:
            outcome = step.forward(batch)
        with saved_storages() as of_backward:
            step.backward(outcome.loss)
        kept[micro_batch] = sum(of_forward.values()), sum(of_backward.values())
    assert kept[None][1] == 0
    assert kept[4][0] < 0.3 * kept[None][0], "no activation of the encoder is kept by forward"
    assert 0.5 * kept[None][0] < kept[4][1] < 1.2 * kept[None][0], "but, in turn, by backward"


@contextmanager
def counted_embeddings(learner: BarlowTwinsLearner) -> Iterator[list[bool]]:
    """Whether each call of `embed` was with a graph."""
    calls, embed = list[bool](), learner.embed

    def counting(batch: Batch) -> Embedded:
        calls.append(torch.is_grad_enabled())
        return embed(batch)

    learner.embed = counting  # type: ignore[method-assign]
    yield calls


def test_a_frozen_encoder_is_not_computed_again(settings: Settings) -> None:
    learner = BarlowTwinsLearner(settings, CPU, steps_per_epoch=1)
    learner.module.encoder.requires_grad_(False)
    step = StepInParts(learner, (8, 7, 7), None)
    with counted_embeddings(learner) as calls:
        step.backward(step.forward(first_batch(settings)).loss)
    assert calls == [False, False, False, True]
    assert next(learner.module.projector.parameters()).grad is not None


def test_a_stop_gradient_stops_in_parts_too(settings: Settings) -> None:
    changes = {
        "model.stop_gradient": True,
        "model.predictor_widths": [32, 64],
        "training.micro_batch": 22,
    }
    found = {}
    for micro_batch in (22, 8):
        changed = override(settings, changes | {"training.micro_batch": micro_batch})
        learner = DoubleLearner(changed, CPU, steps_per_epoch=1)
        learner.module.encoder.eval()  # without statistics of parts
        step = build_step(learner, changed)
        step.backward(step.forward(first_batch(changed)).loss)
        found[micro_batch] = {n: p.grad for n, p in learner.module.named_parameters()}
    assert_close(found[8], found[22], 1e-10)  # type: ignore[arg-type]


def test_fp16_goes_through_the_cut(settings: Settings) -> None:
    """The scaled gradient of the representations is float16; unscaled, it is that of float32."""
    found = {}
    for precision in ("fp32", "fp16"):
        changes = {"training.precision": precision, "training.micro_batch": 8}
        learner = BarlowTwinsLearner(override(settings, changes), CPU, steps_per_epoch=1)
        step = build_step(learner, override(settings, changes))
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        outcome = step.forward(first_batch(settings))
        assert {rows.dtype for rows in step._embedded} == {  # type: ignore[attr-defined]
            torch.float32 if precision == "fp32" else torch.float16
        }
        step.backward(scaler.scale(outcome.loss))
        scaler.unscale_(learner.optimizer)
        found[precision] = torch.cat([p.grad.flatten() for p in learner.module.parameters()])  # type: ignore[union-attr]
    cosine = torch.nn.functional.cosine_similarity(found["fp32"], found["fp16"], dim=0)
    assert cosine > 0.98
    assert float(found["fp16"].norm()) == pytest.approx(float(found["fp32"].norm()), rel=0.05)


def _sum_in(rank: int, world_size: int, dtype: torch.dtype | None) -> list[Tensor]:
    gradients._BUCKET_BYTES = 40
    module = nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 2).double(), nn.Linear(2, 1))
    module[2].bias.requires_grad_(False)
    for number, parameter in enumerate(module.parameters()):
        if parameter.requires_grad:
            parameter.grad = torch.full_like(parameter, (number + 1) * (rank + 1) / 3)
    gradients.sum_gradients(module, dtype)
    return [p.grad for p in module.parameters() if p.grad is not None]


@pytest.mark.run
@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_gradients_are_summed_in_buckets(dtype: torch.dtype | None) -> None:
    for found in run_workers(2, _sum_in, dtype):
        assert len(found) == 5
        for number, gradient in enumerate(found):
            wanted = torch.full_like(gradient, number + 1)
            torch.testing.assert_close(
                gradient, wanted, rtol=1e-6 if dtype is None else 1e-3, atol=0
            )


def test_parts_are_about_equal() -> None:
    assert part_rows(10, None) == part_rows(10, 10) == part_rows(10, 99) == (10,)
    assert part_rows(10, 4) == (4, 3, 3)
    for rows in range(1, 30):
        for most in range(1, 30):
            sizes = part_rows(rows, most)
            assert sum(sizes) == rows
            assert max(sizes) <= most
            assert max(sizes) - min(sizes) <= 1


def test_a_part_of_one_image_is_refused(small_settings: Settings) -> None:
    for batch, most, better in ((5, 2, 3), (8, 1, 2), (3, 2, 3)):
        changes = {"data.global_batch": batch, "training.micro_batch": most}
        with pytest.raises(SettingsError, match=rf"micro_batch={most} cuts .* try {better}\."):
            override(small_settings, changes)
        override(small_settings, changes | {"training.micro_batch": better})
    override(small_settings, {"scaling.workers": 2, "training.micro_batch": 1})
    with pytest.raises(SettingsError, match=r"micro_batch=0 must be"):
        override(small_settings, {"training.micro_batch": 0})


def test_a_cut_keeps_each_image_with_its_label(settings: Settings) -> None:
    from bt_ray.methods.step import _cut

    batch = first_batch(settings)
    parts = list(_cut(batch, (8, 7, 7)))
    assert np.array_equal(np.concatenate([part.samples for part in parts]), batch.samples)
    for number in (0, 1):
        views = torch.cat([part.views[number] for part in parts])
        assert torch.equal(views, batch.views[number])
