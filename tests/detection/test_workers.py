"""Workers train the detector that one of them would train."""

from dataclasses import replace
from typing import cast

import pytest
import torch
from torch import Tensor

from bt_ray.detection.protocols import Backbone
from bt_ray.detection.targets import Target
from bt_ray.distributed.collectives import sum_for_replicas
from bt_ray.distributed.gradients import data_parallel
from bt_ray.model.batch_norm import globalize_batch_norm
from tests.detection.small import PROTOCOL, detector_of, narrow_pyramid, painted
from tests.workers import run_workers

PX = 64
IMAGES = (
    ([[6, 8, 40, 44], [30, 34, 60, 62]], [1, 2]),
    ([[4, 10, 34, 50]], [2]),
    ([], []),
    ([[20, 20, 60, 50]], [1]),
)
"""Boxes and labels. So few anchors and regions that none is drawn: all of them are taken."""

CASES: list[tuple[Backbone, list[list[int]]]] = [
    ("c4", [[0, 1], [2, 3]]),
    ("c4", [[0, 1, 3], [2]]),  # of unequal numbers; the second worker has no object at all
    ("fpn", [[0, 1, 3], [2]]),
    ("c4", [[2], [2]]),
]
"""The backbone, and which images each of two workers has."""
Found = tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]
"""Losses of the global batch, gradients, and running statistics after one step."""


def batch(numbers: list[int]) -> tuple[Tensor, list[tuple[int, int]], list[Target]]:
    drawn = [painted(*IMAGES[number], px=PX) for number in numbers]
    return (
        torch.stack([d[0] for d in drawn]).double(),
        [(PX, PX)] * len(drawn),
        [d[1] for d in drawn],
    )


def _step(rank: int, world_size: int, backbone: Backbone, shares: list[list[int]]) -> Found:
    with narrow_pyramid():
        detector = detector_of(replace(PROTOCOL, backbone=backbone, masks=True)).double()
    globalize_batch_norm(detector)
    for sampler in (detector.rpn.fg_bg_sampler, detector.roi_heads.fg_bg_sampler):
        sampler.batch_size_per_image, sampler.positive_fraction = 10**6, 0.5
    torch.manual_seed(rank)
    parallel = data_parallel(detector)  # a reference: its hooks end with it
    losses = cast(dict[str, Tensor], parallel(*batch(shares[rank])))
    total = {name: sum_for_replicas(loss) for name, loss in losses.items()}
    torch.stack(list(total.values())).sum().backward()
    gradients = {
        name: weight.grad for name, weight in detector.named_parameters() if weight.grad is not None
    }
    assert len(gradients) == len(list(detector.parameters()))
    statistics = {name: value for name, value in detector.named_buffers() if "running" in name}
    return {name: loss.detach() for name, loss in total.items()}, gradients, statistics


def _steps(rank: int, world_size: int) -> list[Found]:
    return [_step(rank, world_size, backbone, shares) for backbone, shares in CASES]


@pytest.fixture(scope="module")
def found() -> list[list[Found]]:
    """What two workers find in each case."""
    return run_workers(2, _steps)


@pytest.mark.run
@pytest.mark.parametrize("case", range(len(CASES)))
def test_two_workers_make_the_step_of_one(found: list[list[Found]], case: int) -> None:
    """Losses, gradients and batch norms' statistics, whoever holds which image."""
    backbone, shares = CASES[case]
    expected = _step(0, 1, backbone, [[number for share in shares for number in share]])
    for of_worker in found:
        for ours, theirs in zip(expected, of_worker[case], strict=True):
            assert ours.keys() == theirs.keys()
            for name, value in ours.items():
                torch.testing.assert_close(theirs[name], value, rtol=1e-6, atol=1e-8, msg=name)


@pytest.mark.run
def test_a_batch_without_any_object_trains_on_background(found: list[list[Found]]) -> None:
    assert CASES[-1] == ("c4", [[2], [2]])
    for of_worker in found:
        losses = of_worker[-1][0]
        assert losses["mask"] == losses["box"] == losses["rpn_box"] == 0
        assert losses["class"] > 0.5
        assert losses["rpn_objectness"] > 0.1
