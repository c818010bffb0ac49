"""SeLa: labels that are shared out evenly, drawn at first and then found."""

import pytest
import torch
from torch.nn.functional import normalize

from bt_ray.config import Settings
from bt_ray.methods.sela import SelaLearner
from tests.methods.harness import build, settings_of, take_steps

WIDTH = 16
"""Of embeddings: the widest that the tests' projector is."""


@pytest.fixture
def learner(small_settings: Settings) -> SelaLearner:
    made = build(settings_of("sela", small_settings))
    assert isinstance(made, SelaLearner)
    return made


def test_labels_are_drawn_evenly_at_first(learner: SelaLearner) -> None:
    """Each head's by itself, the same at each start."""
    values, (num_prototypes, heads, _) = learner.labels.values, learner.clustering
    for head in range(heads):
        counts = values[head].bincount(minlength=num_prototypes)
        assert counts.max() - counts.min() <= 1
        assert not torch.equal(values[head], values[head].sort().values)
    assert not torch.equal(values[0], values[1])
    assert torch.equal(build(learner.settings).module.state_dict()["labels.values"], values)


def test_labels_are_found_by_prototypes_and_shared_out(learner: SelaLearner) -> None:
    """Only of images that the bank has. Each head's are mostly near, and even."""
    num_prototypes, heads, _ = learner.clustering
    before = learner.labels.values.clone()
    points = normalize(torch.randn(300, WIDTH).double(), dim=1)
    learner.bank.write(torch.arange(300), points)
    learner.relabel(1)
    after = learner.labels.values
    assert torch.equal(after[:, 300:], before[:, 300:])
    for head, weight in enumerate(learner.prototypes.weights):
        counts = after[head, :300].bincount(minlength=num_prototypes)
        assert counts.min() > 0
        assert counts.max() <= 2 * 300 / num_prototypes
        cosines = points @ weight.T
        own = cosines.gather(1, after[head, :300, None]).mean()
        assert own > 0.5 * cosines.amax(dim=1).mean()
    assert heads > 1


def test_prototypes_are_trained_and_stay_on_the_sphere(small_settings: Settings) -> None:
    """Those of each head; and the labels are no more those that were drawn."""
    settings = settings_of("sela", small_settings)
    begin = build(settings).module.state_dict()
    losses, _, state = take_steps(0, 1, settings, 2)
    for name in (f"prototypes.heads.{head}.weight" for head in range(3)):
        assert (state[name] - begin[name]).abs().max() > 1e-9
        torch.testing.assert_close(state[name].norm(dim=1), torch.ones(len(state[name])).double())
    assert all(loss > 0.1 for loss in losses)
    assert not torch.equal(state["labels.values"], begin["labels.values"])
