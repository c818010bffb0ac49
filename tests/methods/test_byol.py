"""BYOL's loss, its target network, and how that follows, are those of its paper."""

import pytest
import torch
from torch import Tensor

from bt_ray.config import Settings, override
from bt_ray.method_presets import byol
from bt_ray.methods.byol import ByolLearner, momentum
from bt_ray.model.network import Follower
from bt_ray.presets import preset
from tests.methods.harness import build, first_batch, in_float64, settings_of


@pytest.fixture
def settings(small_settings: Settings) -> Settings:
    return settings_of("byol", small_settings)


def weights(learner: ByolLearner) -> tuple[list[Tensor], list[Tensor]]:
    """Of the online encoder and projector, and of the target's."""
    network, target = learner.module, learner.module.get_submodule("target")
    assert isinstance(target, Follower)
    online = [*network.encoder.parameters(), *network.projector.parameters()]
    return online, [*target.encoder.parameters(), *target.projector.parameters()]


def naive(p: Tensor, t: Tensor) -> Tensor:
    """Eq. 2, row by row."""
    total = p.new_zeros(())
    for mine, theirs in zip(p, t, strict=True):
        unit, its = mine / (mine**2).sum().sqrt(), theirs / (theirs**2).sum().sqrt()
        total = total + ((unit - its) ** 2).sum() / len(p)
    return total


def test_the_loss_is_equation_2_both_ways(settings: Settings) -> None:
    """Value and gradients, with a target that differs from the online network."""
    with in_float64():
        learner, batch = build(settings), first_batch(settings)
        online, followers = weights(learner)
        with torch.no_grad():
            for weight in followers:
                weight.mul_(1 + 0.3 * torch.rand_like(weight))
        loss = learner.objective(learner.embed(batch)).loss
        network, target = learner.module, learner.module.get_submodule("target")
        views = learner.inputs(batch.views)
        predictor = network.get_submodule("predictor")
        p_a, p_b = (predictor(network.projector(network.encoder(view))) for view in views)
        t_a, t_b = (target.projector(target.encoder(view)) for view in views)
    expected = naive(p_a, t_b) + naive(p_b, t_a)
    torch.testing.assert_close(loss, expected)
    assert not torch.allclose(loss, naive(p_a, t_a) + naive(p_b, t_b))
    got = torch.autograd.grad(loss, online)
    for ours, theirs in zip(got, torch.autograd.grad(expected, online), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_target_follows_after_a_step_alone(settings: Settings) -> None:
    """Neither embedding nor the loss moves its weights; then it keeps τ of itself."""
    with in_float64():
        learner, batch = build(settings), first_batch(settings)
        online, followers = weights(learner)
        before = [weight.clone() for weight in followers]
        learner.objective(learner.embed(batch)).loss.backward()
        learner.optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, followers, strict=True))
    learner.after_step(1)
    kept = settings.objective.byol.momentum
    for old, new, leader in zip(before, followers, online, strict=True):
        torch.testing.assert_close(new, kept * old + (1 - kept) * leader)
    assert any(not torch.equal(a, b) for a, b in zip(before, followers, strict=True))
    assert all(not weight.requires_grad for weight in followers)


def test_the_momentum_rises_from_its_setting_to_1() -> None:
    """By half a cosine: in the middle it is half way."""
    taus = [momentum(0.99, step, 10) for step in range(11)]
    assert taus[0] == pytest.approx(0.99)
    assert taus[5] == pytest.approx(0.995)
    assert taus[10] == pytest.approx(1)
    assert taus == sorted(taus)


def test_the_target_starts_as_the_network_does(settings: Settings) -> None:
    """Also where the network's weights are not those drawn (`model.start_from`)."""
    learner = build(settings)
    online, followers = weights(learner)
    assert all(torch.equal(a, b) for a, b in zip(online, followers, strict=True))
    with torch.no_grad():
        for weight in online:
            weight.add_(1)
    assert not any(torch.equal(a, b) for a, b in zip(online, followers, strict=True))
    learner.begin()
    assert all(torch.equal(a, b) for a, b in zip(online, followers, strict=True))


def test_shorter_runs_have_the_authors_shorter_runs_numbers() -> None:
    """A longer run than theirs has those of their longest."""
    found = {}
    for epochs in (30, 40, 100, 300, 1000, 2000):
        changes = byol(override(preset("imagenet_300"), {"schedule.epochs": epochs}))
        found[epochs] = [changes[name] for name in (
            "optimizer.bias_rate", "optimizer.weight_decay", "objective.byol.momentum")
        ]  # fmt: skip
    assert found[30] == found[40] == [0.45, 1e-6, 0.97]
    assert found[100] == [0.45, 1e-6, 0.99]
    assert found[300] == [0.3, 1e-6, 0.99]
    assert found[2000] == found[1000] == [0.2, 1.5e-6, 0.996]
