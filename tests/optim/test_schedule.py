"""Learning rates by the epoch, against torch's schedulers."""

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR

from bt_ray.optim.schedule import cosine_by_epoch, staircase


@pytest.mark.parametrize("epochs", [1, 7, 100])
def test_the_cosine_is_torchs(epochs: int) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = CosineAnnealingLR(optimizer, epochs)
    for epoch in range(epochs):
        assert cosine_by_epoch(epoch, epochs) == pytest.approx(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()


def test_the_staircase_is_torchs() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = MultiStepLR(optimizer, [5, 10])
    for epoch in range(14):
        assert staircase(epoch, (5, 10)) == pytest.approx(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
