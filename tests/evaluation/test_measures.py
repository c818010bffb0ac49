import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from bt_ray.config import Settings, override
from bt_ray.data.shards import write_shards
from bt_ray.data.sources import Source, open_source
from bt_ray.evaluation.knn import knn_top1
from bt_ray.evaluation.probe import build_probe
from bt_ray.evaluation.spectrum import mean_correlation, mean_deviation, rank_me
from bt_ray.model.encoder import build_encoder

CPU = torch.device("cpu")


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


def test_rank_me_counts_the_directions_used() -> None:
    basis, _ = torch.linalg.qr(torch.randn(500, 8, dtype=torch.float64))
    assert rank_me(basis) == pytest.approx(8, rel=1e-6)
    assert rank_me(basis[:, :1] @ torch.ones(1, 8, dtype=torch.float64)) == pytest.approx(
        1, rel=1e-6
    )


def test_collapse_shows() -> None:
    spread, point = torch.randn(2000, 32), torch.ones(2000, 32) + 1e-6 * torch.randn(2000, 32)
    assert mean_deviation(spread) == pytest.approx(1, abs=0.05)
    assert mean_deviation(point) < 1e-3
    line = torch.randn(2000, 1) * torch.ones(1, 32)
    assert mean_correlation(line) == pytest.approx(1, abs=1e-6)
    assert mean_correlation(spread) < 0.05
    assert mean_correlation(torch.zeros(10, 4)) == 0


def test_probe_measures_and_leaves_the_encoder_as_it_was(small_settings: Settings) -> None:
    encoder = build_encoder(small_settings.model)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    measures = build_probe(small_settings, CPU)(encoder)
    assert set(measures) == {
        "probe/rankme", "probe/mean_deviation", "probe/mean_correlation", "knn/top1",
    }  # fmt: skip
    assert encoder.training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_without_labels_there_is_no_knn(small_settings: Settings, tmp_path) -> None:  # type: ignore[no-untyped-def]
    source = open_source("digits:test")
    bare = Source(
        "bare",
        (),
        source.num_images,
        source.num_bytes,
        (type(i)(i.sample_id, i.encoded, None) for i in source.images),
    )
    root = write_shards(bare, str(tmp_path / "bare"), rows_per_row_group=64).root
    encoder = build_encoder(small_settings.model)
    for changes in ({"data.test": None}, {"data.test": root}, {"data.train": root}):
        assert "knn/top1" not in build_probe(override(small_settings, changes), CPU)(encoder)


@pytest.mark.parametrize(
    ("name", "stem"), [("resnet18", "cifar"), ("resnet50", "imagenet"), ("conv6", "cifar")]
)
def test_encoders_say_how_many_features_they_give(
    small_settings: Settings, name: str, stem: str
) -> None:
    model = override(small_settings, {"model.encoder": name, "model.stem": stem}).model
    encoder = build_encoder(model).eval()
    assert encoder(torch.zeros(2, 3, 32, 32)).shape == (2, encoder.num_features)
