"""MoCo v2 beside Algorithm 1, row by row; its queue, its shuffled groups and what is refused."""

import math
from collections import deque
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from bt_ray.config import Settings, check_pretraining, override
from bt_ray.errors import SettingsError
from bt_ray.method_presets import with_method
from bt_ray.methods.moco_v2 import MocoLearner, info_nce
from bt_ray.methods.queue import Queue
from bt_ray.model.batch_norm import GroupedBatchNorm
from bt_ray.model.network import Follower
from bt_ray.presets import preset
from tests.methods.harness import BATCH, build, in_float64, settings_of, take_steps
from tests.methods.slopes import random, slopes
from tests.methods.test_step import first_batch

TEMPERATURE = 0.3


def naive(queries: Tensor, keys: Tensor, negatives: Tensor) -> float:
    """Eq. 1, summed over the queries."""
    total = 0.0
    for query, key in zip(queries.tolist(), keys.tolist(), strict=True):
        powers = [
            math.exp(sum(a * b for a, b in zip(query, other, strict=True)) / TEMPERATURE)
            for other in [key, *negatives.tolist()]
        ]
        total -= math.log(powers[0] / sum(powers))
    return total


def test_the_loss_is_that_of_the_paper() -> None:
    queries = random(4, 3, seed=0).requires_grad_()
    keys, negatives = normalize(random(4, 3, seed=1)), normalize(random(6, 3, seed=2))
    losses, _ = info_nce(queries, keys, negatives, TEMPERATURE)
    losses.sum().backward()
    q = queries.detach()
    assert float(losses.sum().detach()) == pytest.approx(naive(q, keys, negatives), rel=1e-12)
    expected = slopes(lambda x: naive(x, keys, negatives), q)
    torch.testing.assert_close(queries.grad, expected, rtol=1e-6, atol=1e-8)


def test_hits_are_queries_nearest_to_their_own_keys() -> None:
    rows = torch.eye(4, dtype=torch.float64)
    _, hits = info_nce(rows[:2], rows[[0, 2]], rows[[1, 3]], TEMPERATURE)
    assert hits.tolist() == [1, 0]


@pytest.mark.parametrize(("num_rows", "batch"), [(6, 3), (7, 3), (5, 5), (4, 9)])
def test_the_queue_has_the_last_keys(num_rows: int, batch: int) -> None:
    """Also where the ring is no whole number of batches, or less than one."""
    queue, last = Queue(num_rows, 2).double(), deque[list[float]](maxlen=num_rows)
    for step in range(6):
        keys = random(batch, 2, seed=step)
        queue.put(keys, step)
        last.extend(keys.tolist())
        if len(last) == num_rows:
            assert sorted(queue.keys.tolist()) == sorted(last)


def _plain(follower: Follower) -> nn.Module:
    """Encoder and projector with torch's batch norm."""

    def plain(module: nn.Module) -> nn.Module:
        if isinstance(module, GroupedBatchNorm):
            made = nn.BatchNorm2d(module.num_features).double()
            made.load_state_dict(module.state_dict())
            return made
        for name, child in module.named_children():
            setattr(module, name, plain(child))
        return module

    return plain(nn.Sequential(deepcopy(follower.encoder), deepcopy(follower.projector)))


def test_keys_are_those_of_shuffled_groups(small_settings: Settings) -> None:
    """Each key is what a plain network makes of the group of random rows that its row came into."""
    settings = settings_of("moco_v2", small_settings)
    learner, batch = build(settings), first_batch(settings)
    assert isinstance(learner, MocoLearner)
    rows = settings.objective.moco_v2.norm_rows
    order = torch.randperm(BATCH, generator=learner.generator(batch.step))
    groups = order.split(rows)
    assert sum(group.sort().values.diff().eq(1).all() for group in groups) == 0
    with in_float64(), torch.no_grad():
        network = _plain(learner._follower)
        (view,) = learner.inputs([batch.views[1]])
        expected = torch.empty(BATCH, settings.model.projector_widths[-1], dtype=torch.float64)
        for group in groups:
            expected[group] = normalize(network(view[group]), dim=1)
        _, keys = learner.embed(batch)
    torch.testing.assert_close(keys, expected, rtol=1e-9, atol=1e-9)


def test_after_a_step_the_follower_has_moved_and_the_queue_holds_the_keys(
    small_settings: Settings,
) -> None:
    settings = override(
        settings_of("moco_v2", small_settings), {"objective.moco_v2.momentum": 0.75}
    )
    learner, batch = build(settings), first_batch(settings)
    assert isinstance(learner, MocoLearner)
    learner.begin()
    first = {name: p.clone() for name, p in learner.module.encoder.named_parameters()}
    with in_float64():
        embedded = learner.embed(batch)
        learner.objective(embedded)
    held = learner._queue.keys.clone()
    with torch.no_grad():
        for parameter in learner.module.parameters():
            if parameter.requires_grad:
                parameter += 1
    learner.after_step(1)
    for name, followed in learner._follower.encoder.named_parameters():
        torch.testing.assert_close(followed, 0.75 * first[name] + 0.25 * (first[name] + 1))
    assert torch.equal(learner._queue.keys[:BATCH], embedded[1])
    assert torch.equal(learner._queue.keys[BATCH:], held[BATCH:])


def test_batch_norms_of_the_projector_keep_to_groups_too(small_settings: Settings) -> None:
    settings = override(
        settings_of("moco_v2", small_settings), {"model.projector_batch_norm": True}
    )
    losses, gradients, _ = take_steps(0, 1, settings, 1)
    assert losses[0].isfinite()
    assert gradients["projector.1.weight"].abs().max() > 0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"data.global_batch": 80}, r"global_batch=80 .*workers=2 .* try .*=64 or 128"),
        ({"data.global_batch": 48}, r"global_batch=48 .*norm_rows=32 .* try .*=64, or"),
        ({"scaling.workers": "2..3"}, r"global_batch=256 .*workers=2\.\.3 .* try .*=192 or 384"),
        ({"training.micro_batch": 48}, r"micro_batch=48 .* 128 rows .* try 32\."),
        ({"training.micro_batch": 16}, r"micro_batch=16 .* try 32\."),
    ],
)
def test_groups_that_no_worker_can_have_whole_are_refused(
    changes: dict[str, object], sentence: str
) -> None:
    settings = with_method(preset("digits"), "moco_v2")
    check_pretraining(settings)
    check_pretraining(override(settings, {"training.micro_batch": 64}))
    with pytest.raises(SettingsError, match=sentence):
        check_pretraining(override(settings, changes))
