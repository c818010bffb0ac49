"""Losses that are not finite, and steps that are skipped, are noticed and named."""

from pathlib import Path

import pytest
import torch

from bt_ray.checkpoints.checkpoint import restore_checkpoint, save_checkpoint
from bt_ray.checkpoints.state import TrainingState
from bt_ray.config import Settings, override
from bt_ray.errors import NonFiniteLossError
from bt_ray.model.twins import Twins
from bt_ray.optim.lars import LARS
from bt_ray.training.watch import FiniteWatch
from tests.gpu.trace import GPU, Trace, fake_gpu, needs_fake_gpu
from tests.states import build_state
from tests.workers import run_workers

CPU = torch.device("cpu")


def _watched(rank: int, world_size: int) -> str:
    """Worker 2's embeddings break at step 7, and with them everybody's loss."""
    watch = FiniteWatch(CPU)
    for step in range(5, 10):
        is_broken = step >= 7
        z = torch.full((4, 3), torch.inf if is_broken and rank == 2 else 1.0)
        watch.look(step, torch.tensor(torch.nan if is_broken else 1.0), z)
    try:
        watch.check()
    except NonFiniteLossError as error:
        return str(error)
    return "nothing noticed"


def test_the_step_and_the_worker_are_named_on_all_workers() -> None:
    for said in run_workers(3, _watched):
        assert said.startswith(
            "The loss is not finite at step 7: the embeddings of worker 2 are not finite."
        )


def test_finite_losses_pass_and_a_loss_may_break_by_itself() -> None:
    watch = FiniteWatch(CPU)
    watch.look(0, torch.tensor(3.0), torch.ones(2, 2))
    watch.check()
    watch.look(1, torch.tensor(torch.inf), torch.ones(2, 2))
    with pytest.raises(NonFiniteLossError, match="at step 1: the embeddings of all workers are"):
        watch.check()


@needs_fake_gpu
def test_a_look_does_not_wait_for_the_device() -> None:
    with fake_gpu(), torch.device(GPU), Trace() as trace:
        watch = FiniteWatch(GPU)
        watch.look(3, torch.empty(()), torch.empty(4, 3), torch.empty(4, 3))
    assert trace.num_launches > 0
    assert not trace.crossings


def _step(state: TrainingState[Twins], gradient: float) -> bool:
    """Makes a step by such gradients, unscaled; whether it moved a weight or a momentum."""
    for group in state.optimizer.param_groups:
        group["lr"] = 0.1
    scale = float(state.scaler.scale(torch.ones(())))
    for parameter in state.module.parameters():
        parameter.grad = torch.full_like(parameter, gradient * scale)
    momenta = [values["momentum"] for values in state.optimizer.state.values()]
    watched = [*state.module.parameters(), *momenta]
    before = [t.detach().clone() for t in watched]
    state.step_optimizer()
    return not all(torch.equal(t, b) for t, b in zip(watched, before, strict=True))


def test_a_step_whose_fp16_gradients_overflow_moves_nothing_and_is_counted(
    small_settings: Settings, tmp_path: Path
) -> None:
    """Also across a checkpoint; the scale is halved each time."""
    settings = override(small_settings, {"training.precision": "fp16"})
    state = build_state(settings, CPU)
    steps = [(torch.inf, 1), (1.0, 1), (torch.nan, 2), (1.0, 2)]
    for gradient, skipped in steps:
        assert _step(state, gradient) == (gradient == 1)
        assert state.skipped_steps == skipped
        assert float(state.scaler.scale(torch.ones(()))) == 2.0 ** (16 - skipped)
    save_checkpoint(tmp_path / "checkpoint", state, settings)
    again = build_state(settings, CPU)
    restore_checkpoint(tmp_path / "checkpoint", again, settings)
    assert again.skipped_steps == 2
    assert not _step(again, torch.inf)
    assert again.skipped_steps == 3


@pytest.mark.parametrize("fused", [True, False])
def test_other_optimizers_skip_and_count_alike(fused: bool) -> None:
    """torch's own: with its fused step, and with the one that a GradScaler unscales for."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=1.0, fused=fused)
    state = TrainingState(torch.nn.Identity(), optimizer, torch.amp.GradScaler("cpu"))
    for gradient, expected, skipped in ((torch.inf, 1.0, 1), (0.25, 0.75, 1)):
        scale = float(state.scaler.scale(torch.ones(())))
        weight.grad = torch.full((3,), gradient * scale)
        state.step_optimizer()
        assert torch.equal(weight.detach(), torch.full((3,), expected))
        assert state.skipped_steps == skipped
        assert weight.grad is None


@pytest.mark.gpu
def test_on_a_gpu_a_skipped_step_is_counted_without_a_wait() -> None:
    weight = torch.nn.Parameter(torch.ones(300, 7, device="cuda"))
    bias = torch.nn.Parameter(torch.ones(7, device="cuda"))
    groups = [{"params": [weight]}, {"params": [bias], "adapt": False}]
    optimizer = LARS(groups, lr=0.1, weight_decay=0.1, momentum=0.9, trust_coefficient=0.1)
    state = TrainingState(torch.nn.Identity(), optimizer, torch.amp.GradScaler("cuda"))

    def step(gradient: float) -> None:
        for parameter in (weight, bias):
            parameter.grad = torch.full_like(parameter, gradient)
        state.step_optimizer()

    state.scaler.scale(torch.ones((), device="cuda"))
    step(1.0)  # compiles, which may wait
    before = [p.detach().clone() for p in (weight, bias)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(torch.inf)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert state.skipped_steps == 1
    assert all(torch.equal(p, b) for p, b in zip((weight, bias), before, strict=True))
    step(1.0)
    assert not any(torch.equal(p, b) for p, b in zip((weight, bias), before, strict=True))
