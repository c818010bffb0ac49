"""SimSiam's loss is that of its paper, and its targets have no gradient."""

import pytest
import torch
from torch import Tensor

from bt_ray.config import Settings
from bt_ray.methods.rows import negative_cosine
from tests.methods.harness import build, first_batch, in_float64, settings_of

N, D = 6, 5


def pairs(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    p, z = torch.randn(2, N, D, generator=generator, dtype=torch.float64)
    return p.requires_grad_(), z.requires_grad_()


def test_the_negative_cosine_is_equation_1() -> None:
    """Row by row; value and the prediction's gradient, and none of the target's."""
    p, z = pairs()
    naive = p.new_zeros(())
    for i in range(N):
        length = (p[i] ** 2).sum().sqrt() * (z[i].detach() ** 2).sum().sqrt()
        naive = naive - (p[i] * z[i].detach()).sum() / length / N
    loss = negative_cosine(p, z, N)
    torch.testing.assert_close(loss, naive)
    (expected,) = torch.autograd.grad(naive, p)
    got, none = torch.autograd.grad(loss, (p, z), allow_unused=True)
    torch.testing.assert_close(got, expected)
    assert none is None


def test_half_precision_is_computed_in_float32() -> None:
    """The mean of bfloat16 rows is not itself rounded to bfloat16."""
    p, z = (x.detach().bfloat16() for x in pairs())
    loss = negative_cosine(p, z, N)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(negative_cosine(p.double(), z.double(), N)), abs=1e-6)


def test_it_is_what_lightly_has() -> None:
    lightly = pytest.importorskip("lightly.loss")
    p, z = pairs()
    loss = negative_cosine(p, z, N)
    torch.testing.assert_close(loss, lightly.NegativeCosineSimilarity()(p, z.detach()))


def test_each_view_predicts_the_other(small_settings: Settings) -> None:
    """The loss of a batch is equation 2 of what the network's parts make of its views."""
    settings = settings_of("simsiam", small_settings)
    with in_float64():
        learner, batch = build(settings), first_batch(settings)
        loss = learner.objective(learner.embed(batch)).loss
        network, views = learner.module, learner.inputs(batch.views)
        z_a, z_b = (network.projector(network.encoder(view)) for view in views)
        p_a, p_b = (network.get_submodule("predictor")(z) for z in (z_a, z_b))
    rows = len(z_a)
    expected = (negative_cosine(p_a, z_b, rows) + negative_cosine(p_b, z_a, rows)) / 2
    torch.testing.assert_close(loss, expected)
    assert not torch.allclose(
        loss, (negative_cosine(p_a, z_a, rows) + negative_cosine(p_b, z_b, rows)) / 2
    )
