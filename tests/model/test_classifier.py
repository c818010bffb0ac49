"""A classifier on an encoder that is frozen, or not."""

import pytest
import torch

from bt_ray.config import Settings
from bt_ray.evaluation.features import fingerprint
from bt_ray.model.classifier import build_classifier
from bt_ray.model.encoder import build_encoder
from bt_ray.model.pretrained import Pretrained


@pytest.fixture
def pretrained(small_settings: Settings) -> Pretrained:
    torch.manual_seed(0)
    return Pretrained(build_encoder(small_settings).eval(), small_settings)


@pytest.mark.parametrize("standardize", [False, True])
def test_a_frozen_encoder_stays_as_it_is(pretrained: Pretrained, standardize: bool) -> None:
    before = fingerprint(pretrained.encoder)
    classifier = build_classifier(pretrained, 4, frozen=True, standardize=standardize).train()
    assert classifier.training
    assert not any(module.training for module in classifier.encoder.modules())
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.1, weight_decay=0.1)
    x = torch.randn(8, 3, 8, 8)
    first = classifier(x)
    first.square().sum().backward()
    optimizer.step()
    assert all(parameter.grad is None for parameter in classifier.encoder.parameters())
    assert not torch.equal(classifier(x), first)
    assert fingerprint(pretrained.encoder) == before


def test_one_that_is_not_frozen_trains(pretrained: Pretrained) -> None:
    before = fingerprint(pretrained.encoder)
    classifier = build_classifier(pretrained, 4, frozen=False)
    assert all(module.training for module in classifier.modules())
    classifier(torch.randn(8, 3, 8, 8)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in classifier.parameters())
    assert fingerprint(pretrained.encoder) != before, "batch norm's statistics should have moved"


def test_features_of_any_scale_are_standardized(pretrained: Pretrained) -> None:
    classifier = build_classifier(pretrained, 4, frozen=True, standardize=True)
    x = torch.randn(64, 3, 8, 8)
    mean = classifier.head[0](100 * pretrained.encoder(x)).mean(0)  # type: ignore[index]
    torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-4, rtol=0)
