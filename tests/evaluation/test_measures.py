import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from bt_ray.config import Settings, override
from bt_ray.evaluation.correlation import cross_correlation
from bt_ray.evaluation.hypersphere import alignment, uniformity
from bt_ray.evaluation.knn import choose_neighbors, knn_top1
from bt_ray.evaluation.spectrum import (
    eigenvalues,
    mean_correlation,
    mean_deviation,
    rank_me,
    singular_values,
)
from bt_ray.model.encoder import build_encoder
from bt_ray.objective.barlow import barlow_twins_terms


def test_knn_equals_scikit_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 5, (3000,), generator=generator)
    x = torch.randn(3000, 16, generator=generator) + torch.randn(5, 16, generator=generator)[labels]
    unit = torch.nn.functional.normalize(x).numpy()
    theirs = KNeighborsClassifier(
        30,
        metric="cosine",
        algorithm="brute",
        weights=lambda distance: np.exp((1 - distance) / 0.1),
    ).fit(unit[:1800], labels[:1800])
    expected = theirs.score(unit[1800:], labels[1800:])
    got = knn_top1(x[:1800], labels[:1800], x[1800:], labels[1800:], neighbors=30, temperature=0.1)
    assert got == pytest.approx(expected, abs=1e-9)


def test_knn_finds_what_is_separable_and_guesses_what_is_not() -> None:
    labels = torch.arange(1000) % 4
    separable = torch.eye(4)[labels] + 0.01 * torch.randn(1000, 4)
    halves = (separable[:500], labels[:500], separable[500:], labels[500:])
    assert knn_top1(*halves, neighbors=20, temperature=0.1) == 1
    shuffled = (halves[0], labels[torch.randperm(500)], *halves[2:])
    assert knn_top1(*shuffled, neighbors=20, temperature=0.1) < 0.45


def test_knn_with_a_bank_smaller_than_k() -> None:
    assert knn_top1(
        torch.eye(2), torch.tensor([0, 1]), torch.eye(2), torch.tensor([0, 1]),
        neighbors=200, temperature=0.1,
    ) == 1  # fmt: skip


@pytest.mark.parametrize(
    ("images_of_classes", "k"),
    [
        ([5000] * 10, 200),  # CIFAR-10, and ImageNet, keep the literature's 200
        ([1300] * 1000, 200),
        ([400] * 10, 63),  # the square root
        ([50] * 1000, 25),  # half a class: a probe's bank of ImageNet
        ([10, 30], 6),
        ([1, 1, 1], 1),
        ([], 1),
    ],
)
def test_k_fits_the_bank(images_of_classes: list[int], k: int) -> None:
    """Images without labels and labels that no image has make no difference."""
    labels = [2 * label for label, count in enumerate(images_of_classes) for _ in range(count)]
    assert choose_neighbors(torch.tensor([*labels, -1, -1], dtype=torch.int64)) == k


def test_rank_me_counts_the_directions_used() -> None:
    basis, _ = torch.linalg.qr(torch.randn(500, 8, dtype=torch.float64))
    assert rank_me(basis) == pytest.approx(8, rel=1e-6)
    assert rank_me(basis[:, :1] @ torch.ones(1, 8, dtype=torch.float64)) == pytest.approx(
        1, rel=1e-6
    )


def _representations(kind: str) -> Tensor:
    """(300, 120), unless said otherwise; collapsed ones are float32, as an encoder gives them."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    kinds = {
        "full": lambda: normal(300, 120).relu(),
        "wide": lambda: normal(100, 120),
        "rank 1": lambda: normal(300, 1) @ normal(1, 120),
        "rank 1, exactly": lambda: normal(300, 1).double() @ normal(1, 120).double(),
        "rank 10": lambda: normal(300, 10) @ normal(10, 120),
        "constant": lambda: torch.full((300, 120), 3.0),
        "one row": lambda: normal(1, 120).repeat(300, 1),
        "one row, nearly": lambda: torch.ones(300, 120) + 1e-6 * normal(300, 120),
        "dead features": lambda: normal(300, 120) * (torch.arange(120) < 60),
        "falling": lambda: normal(300, 120) * torch.logspace(0, -12, 120),
    }
    return kinds[kind]()


@pytest.mark.parametrize(
    "kind",
    [
        "full", "wide", "rank 1", "rank 1, exactly", "rank 10", "constant", "one row",
        "one row, nearly", "dead features", "falling",
    ],
)  # fmt: skip
def test_singular_values_are_torchs(kind: str) -> None:
    """Also those that a Gram matrix alone would lose, and RankMe with them."""
    x = _representations(kind)
    expected = torch.linalg.svdvals(x.double())
    got = singular_values(x).sort(descending=True).values
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-11 * float(expected[0]))
    share = expected / expected.sum() + 1e-12
    assert rank_me(x) == pytest.approx(float(torch.exp(-(share * share.log()).sum())), rel=1e-9)


def test_collapse_shows() -> None:
    spread, point = torch.randn(2000, 32), torch.ones(2000, 32) + 1e-6 * torch.randn(2000, 32)
    assert mean_deviation(spread) == pytest.approx(1, abs=0.05)
    assert mean_deviation(point) < 1e-3
    line = torch.randn(2000, 1) * torch.ones(1, 32)
    assert mean_correlation(line) == pytest.approx(1, abs=1e-6)
    assert mean_correlation(spread) < 0.05
    assert mean_correlation(torch.zeros(10, 4)) == 0


def test_alignment_and_uniformity_equal_a_double_loop() -> None:
    """Also across the borders of blocks, and whatever the lengths of the vectors."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(700, 5, generator=generator) + 0.5
    y = x + 0.3 * torch.randn(700, 5, generator=generator)
    unit_x, unit_y = ((v.double() / v.double().norm(dim=1, keepdim=True)).numpy() for v in (x, y))
    distances = [((unit_x[i] - unit_y[i]) ** 2).sum() for i in range(700)]
    potentials = [
        np.exp(-2 * ((unit_x[i] - unit_x[j]) ** 2).sum()) for i in range(700) for j in range(i)
    ]
    assert alignment(x, y) == pytest.approx(np.mean(distances), rel=1e-12)
    assert uniformity(x) == pytest.approx(np.log(np.mean(potentials)), rel=1e-12)


def test_alignment_and_uniformity_at_their_ends() -> None:
    x = torch.randn(1500, 256, generator=torch.Generator().manual_seed(0))
    assert alignment(x, 3 * x) == pytest.approx(0, abs=1e-12)
    assert alignment(x, -x) == pytest.approx(4)
    assert uniformity(torch.ones(600, 8)) == pytest.approx(0, abs=1e-12)
    assert uniformity(x) == pytest.approx(-4, abs=0.05)


def test_eigenvalues_are_the_covariances() -> None:
    """Also with fewer rows than dimensions; collapsed representations have none."""
    x = torch.randn(40, 60, generator=torch.Generator().manual_seed(0)) + 3
    got = eigenvalues(x).numpy()
    expected = np.linalg.svd(x.double().numpy() - x.double().numpy().mean(0), compute_uv=False) ** 2
    np.testing.assert_allclose(got[:40], expected / expected.sum(), atol=1e-12)
    assert got.shape == (60,)
    assert (got[39:] < 1e-12).all()
    assert (eigenvalues(torch.ones(10, 4)) == 0).all()


def test_cross_correlation_is_that_of_the_objective() -> None:
    """Where ε does not matter; and where it would, an untrained network is seen all the same."""
    generator = torch.Generator().manual_seed(0)
    z_a = torch.randn(300, 12, generator=generator)
    z_b = z_a.roll(1, dims=1) + torch.randn(300, 12, generator=generator)
    c = cross_correlation(z_a, z_b)
    np.testing.assert_allclose(c, np.corrcoef(z_a.T, z_b.T)[:12, 12:], atol=1e-6)
    on_diagonal, off_diagonal = barlow_twins_terms(z_a, z_b)
    assert float((1 - c.diagonal()).square().sum()) == pytest.approx(float(on_diagonal), rel=1e-4)
    off = c - torch.diag(c.diagonal())
    assert float(off.square().sum()) == pytest.approx(float(off_diagonal), rel=1e-4)
    assert torch.allclose(cross_correlation(1e-5 * z_a, 1e-5 * z_b), c, atol=1e-5)
    z_a[:, 3] = 0.1
    assert cross_correlation(z_a, z_b)[3].abs().max() < 1e-6


@pytest.mark.parametrize(
    ("name", "stem"), [("resnet18", "cifar"), ("resnet50", "imagenet"), ("conv6", "cifar")]
)
def test_encoders_say_how_many_features_they_give(
    small_settings: Settings, name: str, stem: str
) -> None:
    settings = override(small_settings, {"model.encoder": name, "model.stem": stem})
    encoder = build_encoder(settings).eval()
    assert encoder(torch.zeros(2, 3, 32, 32)).shape == (2, encoder.num_features)
