"""DeepCluster and the bank that it has in common with SeLa."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from bt_ray.config import Settings
from bt_ray.methods.deepcluster import DeepClusterLearner
from bt_ray.methods.embedding_bank import EmbeddingBank
from bt_ray.methods.labels import UNKNOWN
from bt_ray.optim.schedule import rate_factor
from tests.methods.harness import build, settings_of, take_steps

WIDTH = 16
"""Of embeddings: the widest that the tests' projector is."""


@pytest.fixture
def learner(small_settings: Settings) -> DeepClusterLearner:
    made = build(settings_of("deepcluster", small_settings))
    assert isinstance(made, DeepClusterLearner)
    return made


def test_the_bank_keeps_each_images_last_embedding() -> None:
    """Also of one that is twice in a step; and it knows which images it has seen."""
    bank = EmbeddingBank(6, 2)
    bank.write(torch.tensor([4, 1]), torch.tensor([[4.0, 4], [1, 1]]))
    bank.write(torch.tensor([1, 5, 1]), torch.tensor([[3.0, 3], [5, 5], [2, 2]]))
    assert bank.embeddings[:, 0].tolist() == [0, 2, 0, 0, 4, 5]
    assert bank.rows().tolist() == [1, 4, 5]


def test_the_first_epoch_only_fills_the_bank(small_settings: Settings) -> None:
    """Its losses are 0 and its rate is; then images have labels, and losses are not 0."""
    settings = settings_of("deepcluster", small_settings)
    losses, _, state = take_steps(0, 1, settings, 3)
    assert losses[0] == losses[1] == 0
    assert losses[2] > 0.1
    assert state["bank.seen"].sum() == 2 * settings.data.global_batch
    known = state["labels.values"] != UNKNOWN
    assert torch.equal(known, state["bank.seen"].expand_as(known))


def test_the_schedule_begins_with_the_second_epoch(learner: DeepClusterLearner) -> None:
    """The rate is 0 in the two steps before, and ends where that of a shorter run would."""
    schedule = learner.settings.schedule
    rates = [learner.rate_factor(step) for step in range(learner.total_steps)]
    assert rates[:2] == [0, 0]
    assert rates[2:] == [
        rate_factor(
            step,
            total_steps=learner.total_steps - 2,
            warmup_steps=round(schedule.warmup_epochs * 2),
            final_factor=schedule.final_factor,
        )
        for step in range(learner.total_steps - 2)
    ]
    assert max(rates) > 0


def test_the_loss_is_the_cross_entropy_of_known_labels(learner: DeepClusterLearner) -> None:
    """A loop over views, heads and images; those without a label do not count."""
    _, heads, temperature = learner.clustering
    views = [normalize(torch.randn(48, WIDTH).double(), dim=1) for _ in range(3)]
    labels = torch.randint(0, 5, (heads, 48))
    labels[0, :10] = UNKNOWN
    labels[1] = UNKNOWN
    total = 0.0
    for view in views:
        for head, weight in enumerate(learner.prototypes.weights):
            rows = [row for row in range(48) if labels[head, row] != UNKNOWN]
            for row in rows:
                p = (weight @ view[row] / temperature).softmax(dim=0)
                total -= float(p[labels[head, row]].log()) / len(rows)
    found = learner._loss(views, labels)
    assert float(found) == pytest.approx(total / len(views) / heads, rel=1e-10)


def test_clusters_are_found_again_between_epochs(learner: DeepClusterLearner) -> None:
    """The labels of three groups of images are three sets, and the prototypes are their middles."""
    for weight in learner.prototypes.weights:
        assert not weight.requires_grad
    middles, samples = torch.eye(WIDTH).double()[:3], torch.arange(90)
    points = normalize(middles[samples % 3] + 0.01 * torch.randn(90, WIDTH).double(), dim=1)
    learner.bank.write(samples, points)
    _stir(learner)
    learner.relabel(1)
    for head, weight in enumerate(learner.prototypes.weights):
        labels = learner.labels.of(samples)[head]
        of_groups = [set(labels[samples % 3 == group].tolist()) for group in range(3)]
        assert sum(map(len, of_groups)) == len(set.union(*of_groups))
        nearest = weight[labels]
        assert ((nearest * points).sum(dim=1) > 0.9).all()
    assert (learner.labels.values[:, 90:] == UNKNOWN).all()
    momenta = [value for state in learner.optimizer.state.values() for value in state.values()]
    assert momenta
    assert not any(value.any() for value in momenta)


def _stir(learner: DeepClusterLearner) -> None:
    """A step of the optimizer, after which there are momenta."""
    for parameter in learner.module.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    learner.optimizer.step()
    assert any(
        bool(value.any())
        for state in learner.optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    )
