"""torch's SGD as classifiers are trained by it: fused on a GPU, where fp16 skips steps."""

import torch
from torch import nn

from bt_ray.optim.sgd import build_sgd


def test_a_first_step_that_is_skipped_leaves_the_momentum_at_zero() -> None:
    """Its memory is used before, so that zeros are no accident."""
    runs = []
    for fused in (True, False):
        weight = nn.Parameter(torch.zeros(1000))
        used = [torch.full((1000,), 7.0) for _ in range(50)]
        del used
        optimizer = build_sgd(
            [{"params": [weight]}], lr=1.0, momentum=0.9, weight_decay=0.0, fused=fused
        )
        scaler = torch.amp.GradScaler("cpu")
        for gradient in (torch.inf, 1.0, 1.0):
            weight.grad = torch.full((1000,), gradient * float(scaler.scale(torch.ones(()))))
            scaler.step(optimizer)
            scaler.update()
        runs.append(weight.detach())
    torch.testing.assert_close(runs[0], torch.full((1000,), -2.9))
    assert torch.equal(*runs)


def test_resumed_momenta_lie_as_their_weights() -> None:
    """Out of a file they are contiguous, and the fused step of a GPU refuses another order."""
    weight = nn.Parameter(torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last))
    weight.grad = torch.randn_like(weight)
    numbers = {"lr": 1.0, "momentum": 0.9, "weight_decay": 0.0}
    optimizer = build_sgd([{"params": [weight]}], **numbers, fused=True)
    optimizer.step()
    kept = optimizer.state_dict()
    buffer = kept["state"][0]["momentum_buffer"]
    kept["state"][0]["momentum_buffer"] = buffer.contiguous()
    resumed = build_sgd([{"params": [weight]}], **numbers, fused=True)
    resumed.load_state_dict(kept)
    again = resumed.state[weight]["momentum_buffer"]
    assert again.stride() == weight.stride()
    assert torch.equal(again, buffer)
