import copy
import math

import pytest
import torch
from torch import nn

from bt_ray.optim.build import build_optimizer, set_rates
from bt_ray.optim.lars import LARS
from bt_ray.optim.lars_update import Triple, Update, update_plainly, update_together
from bt_ray.optim.schedule import rate_factor
from bt_ray.presets import preset

NUMBERS = {"lr": 0.3, "weight_decay": 0.01, "momentum": 0.9, "trust_coefficient": 0.02}


def test_one_step_by_hand() -> None:
    """w = (3, 4), g = (0.6, 0.8): d = g + 0.1 w = (0.9, 1.2), its norm 1.5, η‖w‖/‖d‖ = 1/30."""
    weight = nn.Parameter(torch.tensor([[3.0, 4.0]], dtype=torch.float64))
    bias = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = LARS(
        [{"params": [weight], "lr": 0.5}, {"params": [bias], "lr": 0.1, "adapt": False}],
        lr=1.0,
        weight_decay=0.1,
        momentum=0.9,
        trust_coefficient=0.01,
    )
    weight.grad = torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    bias.grad = torch.tensor([2.0], dtype=torch.float64)
    optimizer.step()
    torch.testing.assert_close(
        weight.detach(), torch.tensor([[3 - 0.5 * 0.03, 4 - 0.5 * 0.04]], dtype=torch.float64)
    )
    assert math.isclose(float(bias.detach()), 1 - 0.1 * 2)
    optimizer.step()
    assert math.isclose(float(bias.detach()), 0.8 - 0.1 * (0.9 * 2 + 2))


def naive_step(weight, gradient, momentum, *, rate, decay, mu, eta):  # type: ignore[no-untyped-def]
    update = gradient + decay * weight
    norms = float(weight.norm()), float(update.norm())
    if all(norms):
        update = update * (eta * norms[0] / norms[1])
    momentum = mu * momentum + update
    return weight - rate * momentum, momentum


def test_many_parameters_equal_a_naive_loop() -> None:
    torch.manual_seed(0)
    shapes = [(4, 3), (7, 2, 3, 3), (5, 5)]
    weights = [nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in shapes]
    nn.init.zeros_(weights[2])
    expected = [w.detach().clone() for w in weights]
    momenta = [torch.zeros_like(w) for w in expected]
    optimizer = LARS([{"params": weights}], **NUMBERS)
    for _ in range(4):
        for i, weight in enumerate(weights):
            weight.grad = torch.randn_like(weight)
            expected[i], momenta[i] = naive_step(
                expected[i], weight.grad, momenta[i], rate=0.3, decay=0.01, mu=0.9, eta=0.02
            )
        optimizer.step()
    for weight, reference in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight.detach(), reference, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("found_inf", [0.0, 1.0])
def test_vectors_together_equal_one_after_the_other(found_inf: float) -> None:
    """As on a GPU, by torch's fused SGD, also where infinities were found."""
    torch.manual_seed(0)
    one_by_one = [Triple(*torch.randn(3, size).unbind()) for size in (1, 17, 64)]
    together = [Triple(*(t.clone() for t in triple)) for triple in one_by_one]
    update = Update(
        rate=0.3,
        weight_decay=0.1,
        momentum=0.9,
        trust_coefficient=0.02,
        adapt=False,
        grad_scale=torch.tensor(64.0),
        found_inf=torch.tensor(found_inf),
    )
    update_together(together, update)
    for ours, theirs in zip(together, one_by_one, strict=True):
        before = theirs.w.clone()
        update_plainly(theirs, update)
        torch.testing.assert_close(ours.w, theirs.w)
        torch.testing.assert_close(ours.m, theirs.m)
        assert torch.equal(theirs.w, before) == bool(found_inf)


def _as_ordinary(optimizer: LARS) -> LARS:
    """A GradScaler unscales before this one, and waits to know whether to call it."""
    optimizer._step_supports_amp_scaling = False
    return optimizer


@pytest.mark.parametrize("init_scale", [2.0**16, 1000.0])
def test_scaled_steps_equal_torchs_ordinary_ones(init_scale: float) -> None:
    """Good, skipped, good: exactly, if the scale is a power of two."""
    runs = []
    for prepare in (lambda optimizer: optimizer, _as_ordinary):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        optimizer = prepare(build_optimizer(preset("digits"), module))
        scaler = torch.amp.GradScaler("cpu", init_scale=init_scale)
        for step in range(4):
            factor = torch.inf if step == 1 else 1.0
            before = [p.detach().clone() for p in module.parameters()]
            scaler.scale(factor * module(torch.randn(6, 3)).square().sum()).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            moved = [
                not torch.equal(p, b) for p, b in zip(module.parameters(), before, strict=True)
            ]
            assert all(moved) if step != 1 else not any(moved)
        assert scaler.get_scale() == init_scale / 2
        momenta = [state["momentum"] for state in optimizer.state.values()]
        runs.append([*(p.detach() for p in module.parameters()), *momenta])
    for ours, theirs in zip(*runs, strict=True):
        if init_scale == 2.0**16:
            assert torch.equal(ours, theirs)
        else:
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_copy_still_takes_the_scalers_numbers() -> None:
    """Also one that was pickled, which loses what is not in an optimizer's state."""
    optimizer = copy.deepcopy(LARS([{"params": [nn.Parameter(torch.ones(2, 2))]}], **NUMBERS))
    assert optimizer._step_supports_amp_scaling


def test_gradients_stay_as_they_were() -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    weight.grad = torch.ones(2, 2)
    LARS([{"params": [weight]}], lr=1, weight_decay=1, momentum=0, trust_coefficient=1).step()
    assert torch.equal(weight.grad, torch.ones(2, 2))


def test_state_makes_a_round_trip() -> None:
    def fresh() -> tuple[nn.Module, LARS]:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        return module, build_optimizer(preset("digits"), module)

    def step(module: nn.Module, optimizer: LARS, seed: int) -> None:
        x = torch.randn(6, 3, generator=torch.Generator().manual_seed(seed))
        module(x).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    module, optimizer = fresh()
    step(module, optimizer, 1)
    saved = copy.deepcopy((module.state_dict(), optimizer.state_dict()))
    step(module, optimizer, 2)
    again, resumed = fresh()
    again.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    step(again, resumed, 2)
    for name, value in module.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_matrices_are_adapted_and_vectors_are_not() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    optimizer = build_optimizer(preset("imagenet_1000"), module)
    adapted, plain = optimizer.param_groups
    assert [p.dim() for p in adapted["params"]] == [4, 2]
    assert [p.dim() for p in plain["params"]] == [1, 1, 1, 1]
    assert (adapted["adapt"], plain["adapt"]) == (True, False)
    assert math.isclose(adapted["peak_lr"], 0.2 * 2048 / 256)
    assert math.isclose(plain["peak_lr"], 0.0048 / 32 * 2048 / 256)
    assert math.isclose(adapted["weight_decay"], 32 * 1.5e-6)
    set_rates(optimizer, 0.5)
    assert math.isclose(adapted["lr"], 0.8)


def test_rate_rises_to_one_then_falls_to_its_last_share() -> None:
    run = {"total_steps": 100, "warmup_steps": 10, "final_factor": 1e-3}
    factors = [rate_factor(step, **run) for step in range(101)]  # type: ignore[arg-type]
    assert factors[0] == 0
    assert factors[5] == pytest.approx(0.5)
    assert factors[10] == 1
    assert factors[55] == pytest.approx(0.5005)
    assert factors[100] == pytest.approx(1e-3)
    assert factors[10:] == sorted(factors[10:], reverse=True)


def test_rate_without_warmup_starts_at_its_highest() -> None:
    assert rate_factor(0, total_steps=10, warmup_steps=0, final_factor=0) == 1
