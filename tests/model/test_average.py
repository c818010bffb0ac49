"""The moving average of weights, beside one that is computed number by number."""

import pytest
import torch
from torch import Tensor, nn

from bt_ray.model.average import Average

DECAY = 0.9


def _encoder() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5))


def _move(encoder: nn.Module) -> None:
    """A step: other weights, and batch norm's statistics of other images."""
    encoder.train()
    encoder(torch.randn(6, 3, 8, 8))
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += torch.randn_like(parameter)


def _state(encoder: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in encoder.state_dict().items()}


@pytest.mark.parametrize("by_device", [False, True])
def test_it_is_what_one_computes_step_by_step(by_device: bool) -> None:
    """Weights and running statistics; counters are those of the encoder. Both ways agree."""
    encoder = _encoder()
    average, expected = Average(encoder, DECAY), _state(encoder)
    for _ in range(5):
        _move(encoder)
        average.update(encoder, torch.tensor(True) if by_device else None)
        for name, value in encoder.state_dict().items():
            if value.is_floating_point():
                expected[name] = DECAY * expected[name] + (1 - DECAY) * value
            else:
                expected[name] = value.clone()
    found = average.encoder.state_dict()
    assert found.keys() == encoder.state_dict().keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)
    assert not torch.equal(found["0.weight"], encoder.state_dict()["0.weight"])
    assert int(found["1.num_batches_tracked"]) == 5


def test_a_step_that_moved_nothing_does_not_count() -> None:
    encoder = _encoder()
    average = Average(encoder, DECAY)
    _move(encoder)
    before = _state(average.encoder)
    average.update(encoder, torch.tensor(False))
    for name, value in average.encoder.state_dict().items():
        if value.is_floating_point():
            assert torch.equal(value, before[name]), name


def test_it_has_no_gradient_and_is_no_part_of_what_is_trained() -> None:
    encoder = _encoder()
    trained = list(encoder.parameters())
    average = Average(encoder, DECAY)
    assert not any(parameter.requires_grad for parameter in average.encoder.parameters())
    assert all(a is b for a, b in zip(encoder.parameters(), trained, strict=True))
    encoder(torch.randn(2, 3, 8, 8)).sum().backward()
    assert all(parameter.grad is None for parameter in average.encoder.parameters())
    assert not any(module.training for module in average.encoder.modules())
    assert all(parameter.grad is not None for parameter in trained)
