"""Noise as targets beside Eq. 1 and 5, and what becomes of the targets over the steps."""

from itertools import permutations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from bt_ray.config import Settings, override
from bt_ray.methods.assignment import reassign
from bt_ray.methods.nat import NatLearner, half_distance
from tests.methods.harness import build, in_float64, settings_of
from tests.methods.slopes import random, slopes
from tests.methods.test_step import first_batch


def naive(embeddings: Tensor, targets: Tensor) -> float:
    """Eq. 1 for given targets."""
    rows = zip(embeddings.tolist(), targets.tolist(), strict=True)
    return sum(
        sum((a - b) ** 2 for a, b in zip(f, y, strict=True)) / 2 for f, y in rows
    ) / len(targets)  # fmt: skip


def test_the_loss_is_that_of_the_paper() -> None:
    embeddings, targets = random(4, 3, seed=0).requires_grad_(), random(4, 3, seed=1)
    loss = half_distance(embeddings, targets)
    loss.backward()
    f = embeddings.detach()
    assert float(loss.detach()) == pytest.approx(naive(f, targets), rel=1e-12)
    expected = slopes(lambda x: naive(x, targets), f)
    torch.testing.assert_close(embeddings.grad, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("seed", range(4))
def test_no_permutation_of_the_targets_lies_nearer(seed: int) -> None:
    """Of all 720."""
    embeddings, targets = (normalize(random(6, 3, seed=10 * seed + i), dim=1) for i in (0, 1))
    chosen = reassign(embeddings, targets)
    assert sorted(chosen.tolist()) == list(range(6))
    least = min(naive(embeddings, targets[list(order)]) for order in permutations(range(6)))
    assert naive(embeddings, targets[chosen]) == pytest.approx(least, rel=1e-12)


@pytest.fixture
def settings(small_settings: Settings) -> Settings:
    return settings_of("nat", small_settings)


def test_a_step_takes_its_loss_by_the_exchanged_targets(settings: Settings) -> None:
    """Those that lie nearest to the mean of both views; they are kept after the step, not before.

    Only the batch's images exchange them."""
    learner, batch = build(settings), first_batch(settings)
    assert isinstance(learner, NatLearner)
    assignment = learner._assignment
    with in_float64():
        *representations, samples = learner.embed(batch)
        loss = learner.objective((*representations, samples)).loss.detach()
        z_a, z_b = (normalize(z.detach()) for z in learner.module.project(*representations))
    before = assignment.of_image.clone()
    assert torch.equal(before, torch.arange(360))
    theirs = assignment.targets[samples]
    numbers = samples[reassign(normalize(z_a + z_b), theirs)]
    targets = assignment.targets[numbers]
    assert float(loss) == pytest.approx((naive(z_a, targets) + naive(z_b, targets)) / 2, rel=1e-10)
    assert naive(z_a + z_b, targets) < naive(z_a + z_b, theirs)
    learner.after_step(1)
    before[samples] = numbers
    assert torch.equal(assignment.of_image, before)
    assert torch.equal(before.sort().values, torch.arange(360))


@pytest.mark.parametrize("epochs_between", [1, 2, 3])
def test_targets_are_exchanged_in_the_epochs_that_are_named(
    settings: Settings, epochs_between: int
) -> None:
    """An epoch is two steps here: in steps 0 and 1, and in those of each such epoch after."""
    changed = override(settings, {"objective.nat.epochs_between": epochs_between})
    learner, samples = build(changed), torch.arange(48)
    assert isinstance(learner, NatLearner)
    width, exchanged = changed.model.projector_widths[-1], []
    for step in range(8):
        learner.step = step
        learner._assign(samples, random(48, width, seed=step))
        before = learner._assignment.of_image.clone()
        learner.after_step(step + 1)
        exchanged.append(not torch.equal(before, learner._assignment.of_image))
    assert exchanged == [step // 2 % epochs_between == 0 for step in range(8)]


def test_targets_are_drawn_again_and_not_kept(settings: Settings) -> None:
    first, again = build(settings), build(settings)
    other = build(override(settings, {"training.seed": 1}))
    targets = [learner.module.get_submodule("assignment").targets for learner in (first, again)]
    assert torch.equal(targets[0], targets[1])  # type: ignore[arg-type]
    assert not torch.equal(targets[0], other.module.get_submodule("assignment").targets)  # type: ignore[arg-type]
    assert list(first.module.get_submodule("assignment").state_dict()) == ["of_image"]
    lengths = targets[0].norm(dim=1)  # type: ignore[operator]
    torch.testing.assert_close(lengths, torch.ones_like(lengths))
