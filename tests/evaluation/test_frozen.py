"""Frozen encoders, scored: on features whose answer is known, and end to end."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from bt_ray.config import Settings
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.errors import CheckpointError, DataError
from bt_ray.evaluation import knn
from bt_ray.evaluation.features import Features, compute_features, fingerprint
from bt_ray.evaluation.frozen import score_frozen
from bt_ray.evaluation.knn import Knn, nearest
from bt_ray.evaluation.labelled import check_disjoint, check_labels
from bt_ray.evaluation.linear import Linear
from bt_ray.model.encoder import build_encoder
from bt_ray.model.pretrained import Pretrained

CPU = torch.device("cpu")


def features(
    x: torch.Tensor, labels: torch.Tensor, num_classes: int = 10, seed: int = 0
) -> Features:
    digests = np.random.default_rng(seed).integers(0, 2**63, len(x)).astype(np.uint64)
    return Features(x.float(), labels, digests, tuple(f"class {i}" for i in range(num_classes)))


def blobs(spread: float, seed: int, num_classes: int = 10) -> Features:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(600) % num_classes
    centres = torch.eye(16)[:num_classes]
    x = centres[labels] + spread * torch.randn(600, 16, generator=generator)
    return features(x, labels, num_classes, seed)


@pytest.mark.parametrize("block", [1, 7, 64, 10_000])
def test_neighbours_found_block_by_block(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knn, "_BANK_BLOCK", block)
    monkeypatch.setattr(knn, "_QUERY_BLOCK", 13)
    bank, queries = torch.randn(100, 8).double(), torch.randn(40, 8).double()
    unit = [torch.nn.functional.normalize(x.float()) for x in (queries, bank)]
    expected = (unit[0] @ unit[1].T).topk(9)
    similarity, index = nearest(queries, bank, 9)
    torch.testing.assert_close(similarity, expected.values)
    assert torch.equal(index, expected.indices)


@pytest.mark.parametrize("method", [Knn(neighbors=10, temperature=0.1), Linear(seed=0)])
def test_separable_is_solved_and_shuffled_is_guessed(method: Knn | Linear) -> None:
    train, test = blobs(0.02, seed=0), blobs(0.02, seed=1)
    assert all(score == 1 for score in method(train, test).values())
    shuffled = features(train.x, train.labels[torch.randperm(600)])
    (top1, *_) = method(shuffled, test).values()
    assert top1 < 0.25


def test_linear_scores_are_those_of_its_logits() -> None:
    """Against scikit-learn's own score and a count by hand, where five guesses are not all."""
    train, test = blobs(0.6, seed=0), blobs(0.6, seed=1)
    scores = Linear(seed=0)(train, test)
    mean, std = train.x.mean(0), train.x.std(0, correction=0)
    best = 0.0
    for strength in (1e-4, 1e-3, 1e-2, 1e-1, 1.0):
        model = LogisticRegression(C=strength, max_iter=300).fit(
            (train.x - mean) / std, train.labels
        )
        logits = model.decision_function((test.x - mean) / std)
        ranks = (logits > logits[np.arange(600), test.labels][:, None]).sum(1)
        if scores["linear_fast_top1"] == pytest.approx((ranks == 0).mean(), abs=1e-6):
            best = float((ranks < 5).mean())
            break
    assert scores["linear_fast_top5"] == pytest.approx(best, abs=1e-6)
    assert 0.3 < scores["linear_fast_top1"] < scores["linear_fast_top5"] < 1


def test_two_classes() -> None:
    scores = Linear(seed=0)(blobs(0.02, 0, num_classes=2), blobs(0.02, 1, num_classes=2))
    assert scores == {"linear_fast_top1": 1.0}


def test_what_cannot_be_scored_is_refused() -> None:
    good = blobs(0.1, seed=0)
    unlabelled = features(good.x, torch.where(torch.arange(600) < 3, -1, good.labels))
    with pytest.raises(DataError, match="3 of 600 test images have no label"):
        check_labels(good, unlabelled)
    with pytest.raises(DataError, match="only one of them has class 8, class 9"):
        check_labels(good, blobs(0.1, seed=1, num_classes=8))
    alone = blobs(0.1, seed=1, num_classes=1)
    with pytest.raises(DataError, match=r"nothing to tell apart.*'class 0'"):
        check_labels(alone, alone)


def test_test_images_in_the_bank_are_refused() -> None:
    train, test = blobs(0.1, seed=0), blobs(0.1, seed=1)
    check_disjoint(train.digests, test.digests, most_shared=0)
    overlapping = np.where(np.arange(600) < 2, train.digests[5], test.digests)
    with pytest.raises(DataError, match="2 of 600 test images are among the training images"):
        check_disjoint(train.digests, overlapping, most_shared=1)
    check_disjoint(train.digests, overlapping, most_shared=2)


@pytest.fixture
def pretrained(small_settings: Settings) -> Pretrained:
    torch.manual_seed(0)
    return Pretrained(build_encoder(small_settings).eval(), small_settings)


def test_features_are_the_encoders_of_every_image_in_order(
    pretrained: Pretrained, digits_shards: ShardSet
) -> None:
    before = fingerprint(pretrained.encoder)
    found = compute_features(pretrained, digits_shards, CPU)
    assert len(found) == digits_shards.manifest.num_rows
    assert fingerprint(pretrained.encoder) == before
    whole = digits_shards.read(np.arange(2))
    assert found.labels[: len(whole)].tolist() == whole["label"].to_pylist()
    assert len(set(found.digests.tolist())) > 0.99 * len(found)


def test_digits_end_to_end(
    pretrained: Pretrained, digits_shards: ShardSet, digits_test_shards: ShardSet
) -> None:
    done: list[int] = []
    scores = score_frozen(
        pretrained, digits_shards, digits_test_shards, Knn(20, 0.1), device=CPU,
        on_progress=done.append,
    )  # fmt: skip
    assert scores["knn_top1"] > 0.85
    assert done[-1] == digits_shards.manifest.num_rows + digits_test_shards.manifest.num_rows
    with pytest.raises(DataError, match="among the training images"):
        score_frozen(pretrained, digits_shards, digits_shards, Knn(20, 0.1), device=CPU)


def test_an_encoder_that_changes_is_refused(
    pretrained: Pretrained, digits_test_shards: ShardSet
) -> None:
    def move(module: torch.nn.Module, *_: object) -> None:
        next(module.parameters()).data.add_(1e-3)

    pretrained.encoder.register_forward_hook(move)
    with pytest.raises(CheckpointError, match="must be frozen"):
        score_frozen(pretrained, digits_test_shards, digits_test_shards, Linear(0), device=CPU)


def test_a_reference_that_means_nothing(small_settings: Settings, tmp_path: Path) -> None:
    from bt_ray.evaluation.encoder import open_encoder

    with pytest.raises(CheckpointError, match="is no encoder: give a run's folder"):
        open_encoder(str(tmp_path), small_settings)
