"""W-MSE whitens sub-batches, each by itself, and says when it cannot."""

import pytest
import torch
from torch import Tensor

from bt_ray.config import Settings, check_pretraining, override
from bt_ray.errors import SettingsError, SingularCovarianceError
from bt_ray.methods.wmse import WmseLearner, whiten, whitened_distance
from tests.methods.harness import build, first_batch, in_float64, settings_of

N, D, ROWS = 24, 3, 8


def embeddings() -> tuple[Tensor, Tensor]:
    """Correlated dimensions of very different widths, whose mean is not 0."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, N, D, generator=generator, dtype=torch.float64)
    mix = torch.tensor([[5.0, 1.0, 0.2], [0.0, 1.0, 0.3], [0.0, 0.0, 0.05]], dtype=torch.float64)
    z_a, z_b = (z[0] + 0.3 * z[1]) @ mix + 7, (z[0] - 0.3 * z[1]) @ mix
    return z_a.requires_grad_(), z_b.requires_grad_()


def cuts() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    orders = [torch.randperm(N, generator=generator) for _ in range(2)]
    return torch.cat(orders).view(-1, ROWS)


def naive_distance(z_a: Tensor, z_b: Tensor, epsilon: float) -> Tensor:
    """Sub-batch by sub-batch and row by row."""
    distances = []
    for rows in cuts():
        whitened = []
        for z in (z_a[rows], z_b[rows]):
            covariance = (1 - epsilon) * torch.cov(z.T) + epsilon * torch.eye(D).double()
            w = torch.linalg.inv(torch.linalg.cholesky(covariance))
            whitened.append([w @ (row - z.mean(0)) for row in z])
        for a, b in zip(*whitened, strict=True):
            distances.append(((a / a.norm() - b / b.norm()) ** 2).sum())
    return torch.stack(distances).mean()


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_value_and_gradients_are_those_of_the_paper(epsilon: float) -> None:
    z = embeddings()
    loss, is_singular = whitened_distance(*z, cuts(), epsilon)
    expected = naive_distance(*z, epsilon)
    assert not is_singular
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, z), torch.autograd.grad(expected, z))


def test_a_whitened_sub_batch_has_mean_0_and_covariance_1() -> None:
    """Each of several, from float32, at once."""
    whitened, _ = whiten(embeddings()[0].detach().float()[cuts()])
    for rows in whitened:
        torch.testing.assert_close(rows.mean(0), torch.zeros(D).double(), atol=1e-9, rtol=0)
        torch.testing.assert_close(torch.cov(rows.T), torch.eye(D).double(), atol=1e-9, rtol=0)


def test_it_is_what_lightly_has() -> None:
    """Of the whole batch as one sub-batch: it draws its own cuts."""
    lightly = pytest.importorskip("lightly.loss")
    z = [x.detach().float() for x in embeddings()]
    theirs = lightly.WMSELoss(embedding_dim=D, w_iter=1, w_size=N)(torch.cat(z))
    ours, _ = whitened_distance(*z, torch.arange(N)[None], 0.0)
    assert float(ours) == pytest.approx(float(theirs.detach()), rel=1e-3)


def test_a_batch_is_cut_anew_at_each_step(small_settings: Settings) -> None:
    """Each slice has every row once; the step and the seed alone decide."""
    settings = settings_of("wmse", small_settings)
    learner, again = build(settings), build(settings)
    assert isinstance(learner, WmseLearner)
    assert isinstance(again, WmseLearner)
    drawn = []
    for step in (0, 1):
        learner.step = again.step = step
        torch.manual_seed(step)  # workers' own random numbers do not matter
        assert torch.equal(learner._cuts(), again._cuts())
        drawn.append(learner._cuts())
    assert not torch.equal(*drawn)
    batch, given = settings.data.global_batch, settings.objective.wmse
    assert drawn[0].shape == (given.slices * batch // given.rows, given.rows)
    for part in drawn[0].view(given.slices, batch):
        assert torch.equal(part.sort().values, torch.arange(batch))


def test_a_sub_batch_of_too_few_rows_is_singular() -> None:
    """As many rows as dimensions have no inverse; ε gives them one."""
    z = embeddings()[0].detach()[None, :D]
    assert whiten(z)[1]
    whitened, is_singular = whiten(z, 0.01)
    assert not is_singular
    assert whitened.isfinite().all()


def test_a_singular_sub_batch_stops_the_run_with_a_way_out(small_settings: Settings) -> None:
    """The loss is NaN at once; the sentence comes when measures are logged, and not before."""
    settings = override(settings_of("wmse", small_settings), {"training.log_every_steps": 2})
    with in_float64():
        learner, batch = build(settings, steps_per_epoch=100), first_batch(settings)
        learner.after_step(2)  # nothing is amiss
        embedded = learner.embed(batch)
        loss = learner.objective(tuple(torch.zeros_like(x) for x in embedded)).loss
    assert loss.isnan()
    learner.after_step(3)
    with pytest.raises(SingularCovarianceError, match=r"objective\.wmse\.rows=24.*wmse\.epsilon=0"):
        learner.after_step(4)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"objective.wmse.rows": 7}, "objective.wmse.rows=7 must divide data.global_batch=48"),
        ({"objective.wmse.rows": 12}, "objective.wmse.rows=12 must be above 12"),
        ({"objective.wmse.epsilon": 1.0}, "must be 0 or above, and below 1"),
    ],
)
def test_what_cannot_be_whitened_is_refused(
    small_settings: Settings, changes: dict[str, float], sentence: str
) -> None:
    settings = settings_of("wmse", small_settings)
    check_pretraining(settings)
    with pytest.raises(SettingsError, match=sentence):
        check_pretraining(override(settings, changes))
    regular = {"objective.wmse.rows": 12, "objective.wmse.epsilon": 0.1}
    check_pretraining(override(settings, regular))
