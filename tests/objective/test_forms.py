"""The cost model: the bytes it states are those that are sent, and it picks the lesser cost."""

import pytest
import torch
from torch import Tensor

from benchmarks.traffic import counted
from bt_ray.objective import barlow
from bt_ray.objective.forms import Way, choose_way, cost
from tests.objective.test_barlow import embeddings
from tests.objective.test_exactness import WAYS, by, error
from tests.workers import run_workers


@pytest.mark.parametrize(
    ("num_dimensions", "megabytes"),
    [
        (8192, {"correlation": 520, "gram_rows": 130, "gram_columns": 73}),
        (65_536, {"correlation": 33_300, "gram_rows": 1_040, "gram_columns": 130}),
    ],
)
def test_bytes_sent_at_the_papers_batch(num_dimensions: int, megabytes: dict[Way, float]) -> None:
    for way, expected in megabytes.items():
        of = cost(way, num_samples=2048, num_dimensions=num_dimensions, num_workers=32)
        assert of.bytes_sent / 1e6 == pytest.approx(expected, rel=0.01)


def _sent(rank: int, world_size: int, n: int, d: int) -> dict[Way, float]:
    z = [x.float().chunk(world_size)[rank] for x in embeddings(n, d)]
    sent: dict[Way, float] = {}
    for way in WAYS:
        with counted() as traffic:
            by(way, *z)
        sent[way] = traffic.bytes_sent
    return sent


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_stated_bytes_are_sent(world_size: int) -> None:
    """To the terms of O(D) that the model leaves out, sixteen values a dimension at most."""
    n, d = 64, 256
    for sent in run_workers(world_size, _sent, n, d):
        for way in WAYS:
            stated = cost(way, num_samples=n, num_dimensions=d, num_workers=world_size).bytes_sent
            assert stated <= sent[way] <= stated + 16 * 4 * d + 200


def test_one_worker_sends_nothing() -> None:
    for way in WAYS:
        assert cost(way, num_samples=64, num_dimensions=256, num_workers=1).bytes_sent == 0


@pytest.mark.parametrize("num_workers", [1, 2, 8, 32])
@pytest.mark.parametrize("num_samples", [2, 256, 2048, 16_384])
@pytest.mark.parametrize("num_dimensions", [1, 128, 2048, 8192, 65_536])
def test_auto_is_neither_costlier_nor_poorer_in_digits(
    num_samples: int, num_dimensions: int, num_workers: int
) -> None:
    sizes = {
        "num_samples": num_samples,
        "num_dimensions": num_dimensions,
        "num_workers": num_workers,
    }
    costs = {way: cost(way, **sizes) for way in WAYS}
    gram, auto = choose_way("gram", **sizes), choose_way("auto", **sizes)
    rows, columns = costs["gram_rows"], costs["gram_columns"]
    assert costs[gram].bytes_sent == min(rows.bytes_sent, columns.bytes_sent)
    assert choose_way("correlation", **sizes) == "correlation"
    if num_dimensions < num_samples:
        assert auto == "correlation"
    else:
        assert costs[auto].weight == min(c.weight for c in costs.values())


def _gradient_of_off_diagonal(way: Way, z: Tensor, dtype: torch.dtype) -> Tensor:
    z = z.detach().to(dtype).requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(barlow, "choose_way", lambda *_, **__: way)
        barlow.barlow_twins_terms(z, z.detach())[1].backward()
    assert z.grad is not None
    return z.grad.double()


def test_the_gram_form_loses_digits_where_auto_does_not_take_it() -> None:
    """D ≪ N and next to decorrelated dimensions: what is left of a difference of large terms."""
    generator = torch.Generator().manual_seed(0)
    z, noise = torch.randn(2, 4096, 16, generator=generator, dtype=torch.float64)
    z = torch.linalg.qr(z - z.mean(0)).Q * 64 + 1e-3 * noise
    z = z.float().double()
    exact = _gradient_of_off_diagonal("correlation", z, torch.float64)
    errors = {way: error(_gradient_of_off_diagonal(way, z, torch.float32), exact) for way in WAYS}
    auto = choose_way("auto", num_samples=4096, num_dimensions=16, num_workers=1)
    assert 2 * errors[auto] < errors["gram_columns"] < 1e-2
