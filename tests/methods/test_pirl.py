"""PIRL beside Eq. 3 to 5, row by row; its bank and what is drawn from it."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from bt_ray.config import Settings, override
from bt_ray.data.stream.batches import Batch
from bt_ray.methods.jigsaw_head import JigsawHead
from bt_ray.methods.memory_bank import MemoryBank
from bt_ray.methods.pirl import PirlLearner, nce
from tests.methods.harness import BATCH, build, in_float64, settings_of
from tests.methods.slopes import random, slopes
from tests.methods.test_step import first_batch

TEMPERATURE = 0.3


def _dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def naive(embeddings: Tensor, positives: Tensor, negatives: Tensor, is_own: Tensor) -> float:
    """Eq. 4 with the h of Eq. 3, summed over the rows."""
    total = 0.0
    for e, positive, own in zip(
        embeddings.tolist(), positives.tolist(), is_own.tolist(), strict=True
    ):
        those = [n for n, skipped in zip(negatives.tolist(), own, strict=True) if not skipped]
        powers = [math.exp(_dot(e, other) / TEMPERATURE) for other in [positive, *those]]
        h = [power / sum(powers) for power in powers]
        total -= math.log(h[0]) + sum(math.log(1 - one) for one in h[1:])
    return total


def test_the_loss_is_that_of_the_paper() -> None:
    embeddings = random(4, 3, seed=0).requires_grad_()
    positives, negatives = normalize(random(4, 3, seed=1)), normalize(random(6, 3, seed=2))
    is_own = torch.zeros(4, 6, dtype=torch.bool)
    is_own[1, 2] = is_own[1, 5] = is_own[3, 0] = True
    losses, _ = nce(embeddings, positives, negatives, is_own, TEMPERATURE)
    losses.sum().backward()
    e = embeddings.detach()
    expected = naive(e, positives, negatives, is_own)
    assert float(losses.sum().detach()) == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(
        embeddings.grad,
        slopes(lambda x: naive(x, positives, negatives, is_own), e),
        rtol=1e-6,
        atol=1e-8,
    )


def test_a_negative_that_is_all_but_sure_leaves_numbers_finite() -> None:
    """In float32, where 1 − h is 0."""
    rows = torch.eye(2).requires_grad_()
    none = torch.zeros(2, 1, dtype=torch.bool)
    losses, hits = nce(rows, torch.eye(2).flip(0), torch.tensor([[1.0, 0.0]]), none, 0.01)
    losses.sum().backward()
    assert losses.isfinite().all()
    assert rows.grad is not None
    assert rows.grad.isfinite().all()
    assert hits.tolist() == [0, 1]


def test_entries_follow_their_images_embeddings() -> None:
    """Of an image that is there twice the last counts; other entries stay."""
    bank, samples = MemoryBank(6, 3).double(), torch.tensor([4, 1, 4])
    before, embeddings = bank.entries.clone(), normalize(random(3, 3, seed=0))
    bank.follow(samples, embeddings, 0.25)
    for row in range(6):
        expected = before[row].tolist()
        if row in (1, 4):
            new = embeddings[1 if row == 1 else 2].tolist()
            mixed = [0.25 * old + 0.75 * one for old, one in zip(expected, new, strict=True)]
            expected = [x / math.sqrt(_dot(mixed, mixed)) for x in mixed]
        assert bank.entries[row].tolist() == pytest.approx(expected, rel=1e-12)


@pytest.fixture
def settings(small_settings: Settings) -> Settings:
    return settings_of("pirl", small_settings)


def _batch(settings: Settings) -> Batch:
    batch = first_batch(settings)
    assert batch.small is not None
    assert batch.small.shape[:2] == (BATCH, 9)
    return batch


def _outcome(learner: PirlLearner, batch: Batch) -> float:
    with in_float64():
        return float(learner.objective(learner.embed(batch)).loss.detach())


@pytest.mark.parametrize("image_weight", [0.0, 0.5, 1.0])
def test_a_step_is_eq_5_and_moves_the_banks_rows(settings: Settings, image_weight: float) -> None:
    """Each row by itself: heads, positives and negatives."""
    changed = override(settings, {"objective.pirl.image_weight": image_weight})
    learner, batch = build(changed), _batch(changed)
    assert isinstance(learner, PirlLearner)
    with in_float64():
        of_images, of_patches, samples = learner.embed(batch)
        loss = float(learner.objective((of_images, of_patches, samples)).loss.detach())
    entries, total = learner._bank.entries.clone(), 0.0
    drawn = torch.randint(360, (changed.objective.pirl.negatives,), generator=learner.generator(0))
    head, images = learner.module.get_submodule("jigsaw_head"), torch.empty(BATCH, entries.shape[1])
    assert isinstance(head, JigsawHead)
    width = changed.model.projector_widths[-1]
    assert (head.of_patch.out_features, head.of_image.in_features) == (width, 9 * width)
    with torch.no_grad():
        for row, sample in enumerate(samples.tolist()):
            f = normalize(learner.module.projector(of_images[row : row + 1]))
            parts = [head.of_patch(of_patches[row, place]) for place in range(9)]
            g = normalize(head.of_image(torch.cat(parts))[None])
            others = entries[drawn[drawn != sample]]
            none = torch.zeros(1, len(others), dtype=torch.bool)
            of = [
                nce(e, entries[sample][None], others, none, changed.objective.pirl.temperature)[0]
                for e in (g, f)
            ]
            total += float((1 - image_weight) * of[0] + image_weight * of[1])
            images[row] = f[0]
    assert loss == pytest.approx(total / BATCH, rel=1e-10)
    learner.after_step(1)
    moved = (learner._bank.entries != entries).any(dim=1).nonzero().flatten()
    assert torch.equal(moved, samples.sort().values)
    mixed = normalize(entries[samples] + images.double(), dim=1)
    torch.testing.assert_close(learner._bank.entries[samples], mixed, rtol=1e-5, atol=1e-6)


def test_a_loss_depends_on_whose_the_patches_are_and_on_the_step(settings: Settings) -> None:
    """A step's negatives are its own, and the same each time."""
    learner, batch = build(settings), _batch(settings)
    assert isinstance(learner, PirlLearner)
    assert batch.small is not None
    loss = _outcome(learner, batch)
    assert _outcome(learner, batch) == loss
    assert _outcome(learner, replace(batch, small=batch.small.flip(0))) != loss
    assert _outcome(learner, replace(batch, step=1)) != loss


def test_a_batch_without_patches_is_refused(settings: Settings) -> None:
    learner = build(settings)
    with pytest.raises(ValueError, match="patches"):
        learner.embed(replace(first_batch(settings), small=None))
