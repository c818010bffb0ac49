"""Losses that are not finite, and steps that are skipped, are noticed and named."""

import pytest
import torch

from bt_ray.config import Settings, override
from bt_ray.errors import NonFiniteLossError
from bt_ray.training.watch import FiniteWatch
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


def test_a_step_whose_fp16_gradients_overflow_moves_nothing_and_is_counted(
    small_settings: Settings,
) -> None:
    state = build_state(override(small_settings, {"training.precision": "fp16"}), CPU)
    before = {name: value.clone() for name, value in state.module.state_dict().items()}
    for gradient, skipped in ((torch.inf, 1), (1.0, 1), (torch.nan, 2)):
        state.scaler.scale(torch.ones(()))
        for parameter in state.module.parameters():
            parameter.grad = torch.full_like(parameter, gradient)
        for group in state.optimizer.param_groups:
            group["lr"] = 0.1
        state.step_optimizer()
        assert state.skipped_steps == skipped
        moved = any(not torch.equal(v, before[k]) for k, v in state.module.state_dict().items())
        assert moved == ((skipped == 1 and gradient == 1.0) or skipped == 2)
