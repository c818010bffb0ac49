"""The linear layer: its loss, its normalisation, and what it can learn."""

import numpy as np
import pytest
import torch

from bt_ray.errors import NonFiniteLossError, SettingsError
from bt_ray.segmentation.head import (
    LinearHead,
    LinearProtocol,
    enlarge,
    mean_loss,
    train_head,
)

CPU = torch.device("cpu")


def test_the_loss_is_the_mean_over_pixels_that_count() -> None:
    """By a loop in float64, with its gradient by finite differences of one score."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 4, 5, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 4, (2, 5, 6), generator=generator)
    labels[0, :2], labels[1, 3] = 255, 255
    values = scores.detach().numpy()
    losses = []
    for n, i, j in np.ndindex(2, 5, 6):
        if labels[n, i, j] != 255:
            z = values[n, :, i, j]
            losses.append(np.log(np.exp(z).sum()) - z[labels[n, i, j]])
    loss = mean_loss(scores, labels)
    loss.backward()
    assert loss.item() == pytest.approx(np.mean(losses), rel=1e-12)
    assert scores.grad is not None
    assert (scores.grad[0, :, :2] == 0).all(), "an ignored pixel teaches nothing"
    z = values[1, :, 0, 0]
    share = np.exp(z) / np.exp(z).sum() - np.eye(4)[labels[1, 0, 0]]
    assert np.allclose(scores.grad[1, :, 0, 0].numpy(), share / len(losses))
    assert mean_loss(scores, torch.full_like(labels, 255)).item() == 0


def test_features_are_normalised_by_all_that_are_trained_on() -> None:
    features = torch.randn(70, 3, 4, 5) * torch.tensor([1.0, 50, 0.01]).view(1, 3, 1, 1) + 7
    found = LinearHead(features, 2, 0).train().normalize(features).double()
    wide = features.double()
    expected = (wide - wide.mean((0, 2, 3), keepdim=True)) / (
        wide.var((0, 2, 3), keepdim=True, correction=0) + 1e-5
    ).sqrt()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_scores_are_enlarged_from_border_to_border() -> None:
    """A ramp of cells is a ramp of pixels, between the middles of the outer cells."""
    cells = torch.tensor([[[[0.0, 1, 2, 3]] * 2]])
    found = enlarge(cells, (4, 16))
    middles = (torch.arange(16) + 0.5) / 4 - 0.5
    assert torch.allclose(found[0, 0, 1], middles.clamp(0, 3))


def separable() -> tuple[torch.Tensor, torch.Tensor]:
    """Features that say the class of their cell beside much noise, and masks of 4 pixels a cell."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.randint(0, 3, (40, 4, 4), generator=generator)
    features = torch.randn(40, 6, 4, 4, generator=generator) * 20
    features[:, :3] = torch.nn.functional.one_hot(classes, 3).permute(0, 3, 1, 2) * 2 + 5
    masks = classes.repeat_interleave(2, 1).repeat_interleave(2, 2)
    return features, masks.to(torch.uint8)


def test_what_can_be_told_by_a_line_is_learnt() -> None:
    features, masks = separable()
    masks[:, 0] = 255
    losses: list[float] = []
    protocol = LinearProtocol(epochs=30, rate=0.03)
    head = train_head(features, masks, 3, protocol, CPU, lambda step, loss: losses.append(loss))
    with torch.no_grad():
        found = head(features).argmax(1)
    right = (found == masks[:, 1::2, ::2]).float().mean()
    assert right > 0.98
    assert len(losses) == 30 * 3
    assert losses[0] == pytest.approx(np.log(3), rel=0.05)


def test_the_same_seed_trains_the_same_head() -> None:
    features, masks = separable()
    heads = [
        train_head(features, masks, 3, LinearProtocol(epochs=2, seed=seed), CPU).linear.weight
        for seed in (1, 1, 2)
    ]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_what_is_not_finite_stops() -> None:
    features, masks = separable()
    features[0, 0, 0, 0] = float("inf")
    with pytest.raises(NonFiniteLossError, match="in step 0"):
        train_head(features, masks, 3, LinearProtocol(), CPU)


@pytest.mark.parametrize("name", ["epochs", "batch", "rate", "weight_decay"])
def test_what_cannot_be_trained_by_is_refused(name: str) -> None:
    option = name.replace("_", "-")
    with pytest.raises(SettingsError, match=f"--{option} -1 must"):
        LinearProtocol(**{name: -1})  # type: ignore[arg-type]
