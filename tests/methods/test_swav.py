"""SwAV: its loss, which views predict which, frozen prototypes, the queue, smaller views."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from bt_ray.config import Settings, override
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.batches import Batch, local_batches
from bt_ray.methods.embedding_queue import EmbeddingQueue
from bt_ray.methods.prototypes import Prototypes
from bt_ray.methods.step import build_step
from bt_ray.methods.swav import SwavLearner, swapped_prediction
from bt_ray.optim.build import set_rates
from tests.methods.harness import CPU, build, in_float64, settings_of
from tests.workers import run_workers


@pytest.fixture
def settings(small_settings: Settings) -> Settings:
    return settings_of("swav", small_settings)


def _batch(settings: Settings, num_small: int = 0, rank: int = 0, world_size: int = 1) -> Batch:
    """The first batch, with smaller views that are corners of its views."""
    shards = ShardSet.open(settings.data.train)
    batch = next(
        local_batches(
            settings, shards, start=0, stop=1, device=CPU, rank=rank, world_size=world_size
        )
    )
    if num_small == 0:
        return batch
    corners = [batch.views[i % 2][:, :, i : i + 5, i : i + 5] for i in range(num_small)]
    return replace(batch, small=torch.stack(corners, dim=1))


def _learner(settings: Settings) -> SwavLearner:
    learner = build(settings)
    assert isinstance(learner, SwavLearner)
    return learner


def _step(learner: SwavLearner, settings: Settings, batch: Batch, number: int) -> float:
    step = build_step(learner, settings)
    set_rates(learner.optimizer, 1.0)
    with in_float64():
        outcome = step.forward(replace(batch, step=number))
    step.backward(outcome.loss)
    learner.optimizer.step()
    learner.optimizer.zero_grad()
    learner.after_step(number + 1)
    return float(outcome.loss.detach())


def test_the_loss_is_the_papers() -> None:
    """Against a loop over codes, views and images; codes only of the first two of three views."""
    scores = [torch.randn(4, 3).double() for _ in range(3)]
    codes = [torch.rand(4, 3).double().softmax(dim=1) for _ in range(2)]
    expected = []
    for row in range(4):
        terms = []
        for assigned in range(2):
            for view in {0, 1, 2} - {assigned}:
                p = (scores[view][row] / 0.1).softmax(dim=0)
                terms.append(-sum(float(codes[assigned][row, k] * p[k].log()) for k in range(3)))
        expected.append(sum(terms) / len(terms))
    found = swapped_prediction(scores, codes, 0.1)
    torch.testing.assert_close(found, torch.tensor(expected).double())


def test_codes_have_no_gradient(settings: Settings) -> None:
    """The gradient of the loss is that with codes which are mere numbers, by finite differences."""
    learner, batch = _learner(settings), _batch(settings)
    with in_float64(), torch.no_grad():
        embedded = learner.embed(batch)
    chosen = settings.objective.swav
    with torch.no_grad():
        z = learner.embeddings(embedded)
        scores = [learner.prototypes(view)[0] for view in z]
        codes = [learner._codes(view, scores[view]) for view in (0, 1)]
    learner.objective(embedded).loss.backward()
    weight = learner.prototypes.weights[0]
    assert weight.grad is not None
    direction, values = torch.randn_like(weight), []
    for sign in (1, -1):
        moved = weight.detach() + sign * 1e-6 * direction
        found = swapped_prediction([view @ moved.T for view in z], codes, chosen.temperature)
        values.append(float(found.mean()))
    slope = (values[0] - values[1]) / 2e-6
    assert float((weight.grad * direction).sum()) == pytest.approx(slope, rel=1e-5)


def test_frozen_prototypes_do_not_move(settings: Settings) -> None:
    """To the bit in the first half epoch of two steps, then they do; always they have norm 1."""
    settings = override(settings, {"objective.swav.frozen_epochs": 0.5})
    learner, batch = _learner(settings), _batch(settings)
    weight = learner.prototypes.weights[0]
    begin = weight.detach().clone()
    _step(learner, settings, batch, 0)
    assert torch.equal(weight, begin)
    _step(learner, settings, batch, 1)
    assert (weight - begin).abs().max() > 1e-6
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(len(weight)).double())


def test_the_queue_keeps_the_newest_first() -> None:
    """Also where its length is no multiple of a step's rows."""
    queue = EmbeddingQueue(5, 1)
    for first in (1, 3, 5):
        queue.push(torch.tensor([[[first], [first + 1.0]]]).repeat(2, 1, 1))
    assert queue.embeddings[0].flatten().tolist() == [5, 6, 3, 4, 1]
    assert torch.equal(queue.embeddings[0], queue.embeddings[1])


def test_the_queue_takes_part_once_it_is_full(settings: Settings) -> None:
    """From the first step of its epoch it fills; the codes then are those beside its rows."""
    settings = override(settings, {"objective.swav.queue_from_epoch": 1})
    learner, batch = _learner(settings), _batch(settings)
    queue = learner.module.get_submodule("queue")
    assert isinstance(queue, EmbeddingQueue)
    scores = torch.randn(48, len(learner.prototypes.weights[0])).double()
    alone = learner._codes(0, scores)
    for number in (0, 1, 2):
        assert not queue.embeddings.any()
        _step(learner, settings, batch, number)
        assert number == 2 or torch.equal(learner._codes(0, scores), alone)
    assert torch.allclose(queue.embeddings.norm(dim=2), torch.ones(2, 48).double())
    learner.step = 3
    beside = learner._codes(0, scores)
    assert beside.shape == alone.shape
    assert (beside - alone).abs().max() > 1e-3


def test_prototypes_give_cosines() -> None:
    """Of each head's own; frozen ones the same, and gradients that are zeros."""
    prototypes = Prototypes(4, 3, heads=2)
    z = normalize(torch.randn(5, 4), dim=1)
    for scores, frozen, weight in zip(
        prototypes(z), prototypes(z, frozen=True), prototypes.weights, strict=True
    ):
        assert torch.equal(scores, frozen)
        for row in range(5):
            cosines = torch.cosine_similarity(z[row][None], weight, dim=1)
            torch.testing.assert_close(scores[row], cosines)
        frozen.sum().backward()
        assert weight.grad is not None
        assert not weight.grad.any()
    assert not torch.equal(*prototypes.weights)


def _with_small(rank: int, world_size: int, settings: Settings) -> tuple[float, dict[str, Tensor]]:
    learner = _learner(settings)
    batch = _batch(settings, 3, rank, world_size)
    loss = _step(learner, settings, batch, 0)
    return loss, {name: value.clone() for name, value in learner.module.state_dict().items()}


def test_smaller_views_predict_the_codes_too(settings: Settings) -> None:
    """Each of three: without gradients of theirs, the loss would not depend on them."""
    learner = _learner(settings)
    batch = _batch(settings, 3)
    assert batch.small is not None
    with in_float64():
        embedded = learner.embed(batch)
        assert [tuple(rows.shape[:2]) for rows in embedded[2:]] == [(48, 3)]
        small = embedded[2].detach().requires_grad_()
        learner.objective((*embedded[:2], small)).loss.backward()
        alone = learner.embed(replace(batch, small=batch.small[:, 1:2]))
    assert small.grad is not None
    assert (small.grad.abs().amax(dim=(0, 2)) > 0).all()
    assert alone[2].shape[1] == 1


@pytest.mark.run
def test_smaller_views_are_alike_for_two_workers(settings: Settings) -> None:
    """Loss and state, also of batch norm, which sees all views of one size together."""
    loss, state = _with_small(0, 1, settings)
    for found, of_worker in run_workers(2, _with_small, settings):
        assert found == pytest.approx(loss, rel=1e-10)
        for name, value in state.items():
            torch.testing.assert_close(of_worker[name], value, rtol=1e-8, atol=1e-9, msg=name)
