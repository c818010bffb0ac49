"""What a step asks of each of 32 GPUs: the paper's model, 64 images a worker.

docs/performance.md has the table of these counts.
"""

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor

from bt_ray.config import DataSettings, Settings, override
from bt_ray.data.stream.block import Batch
from bt_ray.data.stream.plan import worker_rows
from bt_ray.distributed.collectives import _RowsToColumns, all_reduce_sum
from bt_ray.methods.barlow_twins import BarlowTwinsLearner
from bt_ray.methods.learner import WholeStep
from bt_ray.model.batch_norm import GlobalBatchNorm
from bt_ray.model.batch_norm.module import _GlobalNormalize
from bt_ray.model.twins import Twins, build_twins
from bt_ray.objective.barlow import barlow_twins_terms
from bt_ray.objective.gram import Share, _GramTerms
from bt_ray.presets import preset
from tests.gpu.trace import GPU, Saved, Trace, fake_gpu, needs_fake_gpu

pytestmark = needs_fake_gpu
IMAGES, WORKERS = 64, 32


@pytest.fixture(autouse=True)
def _world() -> Iterator[None]:
    with fake_gpu(WORKERS):
        yield


@pytest.fixture
def twins() -> Twins:
    with torch.device(GPU):
        made = build_twins(Settings(name="budget", data=DataSettings(train="digits")))
    made.globalize_batch_norm()
    return made


def _views() -> tuple[Tensor, Tensor]:
    view = torch.empty(IMAGES, 3, 224, 224, device=GPU)
    view = view.contiguous(memory_format=torch.channels_last)
    return view, view.clone()


def _inputs(twins: Twins) -> list[tuple[GlobalBatchNorm, Tensor]]:
    """Every batch norm with what passes through it in a step, in half precision."""
    met: list[tuple[GlobalBatchNorm, Tensor]] = []

    def note(module: torch.nn.Module, given: tuple[Any, ...]) -> None:
        assert isinstance(module, GlobalBatchNorm)
        met.append((module, given[0].half()))

    for module in twins.modules():
        if isinstance(module, GlobalBatchNorm):
            module.register_forward_pre_hook(note)
    with torch.no_grad():
        twins(*_views())
    return met


def test_batch_norm_launches_little_and_waits_for_nothing(twins: Twins) -> None:
    met = _inputs(twins)
    assert len(met) == 55
    trace, elements = Trace(), sum(x.numel() for _, x in met)
    for norm, x in met:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        running, saved = (norm.running_mean, norm.running_var), Saved()
        gradient = torch.empty_like(x)
        with torch.no_grad(), trace:
            _GlobalNormalize.forward(saved, x, norm.weight, norm.bias, running, 0.1, 1e-5, 2)
            norm.num_batches_tracked.add_(2)  # type: ignore[union-attr, operator]
            _GlobalNormalize.backward(saved, gradient)
    assert not trace.crossings
    assert trace.collectives.total() == 2 * 55
    assert trace.num_launches <= 1_700
    assert trace.bytes / elements <= 20.1  # torch's own kernels move 16, joining the views 4


def test_the_models_forward_waits_for_nothing(twins: Twins) -> None:
    with torch.no_grad(), Trace() as trace:
        z_a, z_b = twins(*_views())
    assert z_a.shape == z_b.shape == (IMAGES, 8192)
    assert not trace.crossings
    assert trace.collectives.total() == 55


def test_the_loss_waits_for_nothing() -> None:
    """Neither forward nor backward: every worker's rows are known from the start."""
    counts = worker_rows(IMAGES * WORKERS, WORKERS)
    z_a, z_b = torch.empty(2, IMAGES, 8192, dtype=torch.float16, device=GPU)
    one = torch.empty((), device=GPU)
    to_columns, terms, gradients = Saved(), Saved(), []
    with torch.no_grad(), Trace() as trace:
        of_columns = [_RowsToColumns.forward(to_columns, z, counts, None) for z in (z_a, z_b)]
        share = Share(add_columns=all_reduce_sum)
        loss = _GramTerms.forward(terms, *of_columns, share, "correlation")
        for gradient in _GramTerms.backward(terms, *torch.empty(2, device=GPU))[:2]:
            gradients.append(_RowsToColumns.backward(to_columns, gradient)[0])
    assert loss[0].shape == one.shape
    assert [gradient.shape for gradient in gradients] == [z_a.shape] * 2
    assert not trace.crossings
    assert trace.collectives == {"alltoall_base_": 4, "allreduce_": 2}


def test_from_levels_to_the_loss_nothing_crosses() -> None:
    """The learner's own two halves; with the input's two copies that is what a step crosses."""
    settings = override(
        preset("imagenet_1000"),
        {
            "data.global_batch": IMAGES * WORKERS,
            "scaling.workers": WORKERS,
            "training.precision": "fp16",  # what the paper's V100s have
        },
    )
    stays = patch.object(torch.nn.Module, "to", lambda module, *_, **__: module)  # no fake moves
    with torch.device(GPU), stays:
        learner = BarlowTwinsLearner(settings, GPU, steps_per_epoch=625)
    levels = torch.empty(IMAGES, 3, 224, 224, dtype=torch.uint8, device=GPU)
    batch = Batch(step=0, views=(levels, levels.clone()), samples=np.arange(IMAGES))
    amp = patch.object(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    with torch.no_grad(), amp:
        learner.embed(batch)  # makes what is made once
        with Trace() as trace:
            outcome = WholeStep(learner)(batch)
    assert outcome.loss.shape == ()
    assert [z.dtype for z in outcome.outputs] == [torch.float16] * 2
    assert not trace.crossings
    assert trace.collectives == {"_allgather_base_": 55, "alltoall_base_": 2, "allreduce_": 2}


def test_the_paths_loss_is_the_one_counted() -> None:
    counts = worker_rows(IMAGES * WORKERS, WORKERS)
    z_a, z_b = torch.empty(2, IMAGES, 8192, dtype=torch.float16, device=GPU)
    with torch.no_grad(), Trace() as trace:
        barlow_twins_terms(z_a, z_b, counts=counts)
    assert not trace.crossings
    assert trace.collectives == {"alltoall_base_": 2, "allreduce_": 2}
