import copy

import pytest
import torch
from torch import Tensor, nn

from bt_ray.model.batch_norm import GlobalBatchNorm, globalize_batch_norm
from tests.workers import run_workers

ROWS = [1, 4, 3]


def make(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[nn.Module, Tensor, Tensor]:
    """A batch norm with uneven parameters, an input and weights of its output."""
    generator = torch.Generator().manual_seed(len(shape))
    norm: nn.Module = (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d)(shape[1])
    for parameter in norm.parameters():
        nn.init.uniform_(parameter, 0.5, 2, generator=generator)
    x = 3 * torch.randn(shape, generator=generator, dtype=torch.float64) + 5
    weigh = torch.randn(shape, generator=generator, dtype=torch.float64)
    return norm.to(dtype), x.to(dtype), weigh.to(dtype)


def outcome(norm: nn.Module, x: Tensor, weigh: Tensor) -> dict[str, Tensor]:
    x = x.requires_grad_()
    y = norm(x)
    (y * weigh).sum().backward()
    return {
        "y": y.detach(),
        "x": x.grad,
        **{name: parameter.grad for name, parameter in norm.named_parameters()},
        **dict(norm.named_buffers()),
    }  # type: ignore[dict-item]


def _share(
    rank: int, world_size: int, shape: tuple[int, ...], dtype: torch.dtype
) -> dict[str, Tensor]:
    norm, x, weigh = make(shape, dtype)
    start = sum(ROWS[:rank])
    mine = slice(start, start + ROWS[rank])
    return outcome(globalize_batch_norm(norm), x[mine].clone(), weigh[mine])


@pytest.mark.parametrize("shape", [(8, 5), (8, 3, 4, 4)])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-11), (torch.float32, 1e-4)])
def test_workers_compute_torchs_batch_norm_of_the_global_batch(
    shape: tuple[int, ...], dtype: torch.dtype, bound: float
) -> None:
    expected = outcome(*make(shape, torch.float64))
    shares = run_workers(len(ROWS), _share, shape, dtype)
    for name in ("y", "x"):
        joined = torch.cat([share[name] for share in shares])
        torch.testing.assert_close(joined.double(), expected[name], rtol=bound, atol=bound)
    for name in ("weight", "bias"):
        total = sum(share[name].double() for share in shares)
        torch.testing.assert_close(total, expected[name], rtol=bound, atol=bound * 10)
    for share in shares:
        for name in ("running_mean", "running_var"):
            torch.testing.assert_close(share[name].double(), expected[name], rtol=bound, atol=bound)
        assert share["num_batches_tracked"] == 1


def _share_of_two_views(rank: int, world_size: int, dtype: torch.dtype) -> dict[str, Tensor]:
    norm, views, weigh = make_two_views(dtype)
    start = sum(ROWS[:rank])
    mine = slice(start, start + ROWS[rank])
    x, weighs = (torch.cat([t[:, mine][0], t[:, mine][1]]) for t in (views, weigh))
    return outcome(globalize_batch_norm(norm, views=2), x, weighs)


def make_two_views(dtype: torch.dtype) -> tuple[nn.Module, Tensor, Tensor]:
    """As `make`, with an input of (2, n, c, h, w), the second view apart from the first."""
    norm, x, weigh = make((8, 3, 4, 4), dtype)
    return norm, torch.stack([x, 2 * x.flip(0) - 1]), torch.stack([weigh, weigh.flip(1)])


@pytest.mark.parametrize("workers", [len(ROWS), 1])
def test_views_in_one_pass_are_normalised_as_if_passed_in_turn(workers: int) -> None:
    """To float64's precision, on several workers and on one."""
    norm, views, weigh = make_two_views(torch.float64)
    x = views.clone().requires_grad_()
    y = torch.stack([norm(x[0]), norm(x[1])])
    (y * weigh).sum().backward()
    rows = ROWS if workers > 1 else [sum(ROWS)]
    if workers > 1:
        shares = run_workers(workers, _share_of_two_views, torch.float64)
    else:
        norm_at_once, views, weigh = make_two_views(torch.float64)
        shares = [outcome(globalize_batch_norm(norm_at_once, 2), *(
            t.flatten(0, 1) for t in (views, weigh)
        ))]  # fmt: skip
    assert x.grad is not None
    for name, expected in (("y", y.detach()), ("x", x.grad)):
        parts = [share[name].unflatten(0, (2, n)) for share, n in zip(shares, rows, strict=True)]
        torch.testing.assert_close(torch.cat(parts, dim=1), expected, rtol=1e-11, atol=1e-11)
    for name, parameter in norm.named_parameters():
        total = torch.stack([share[name] for share in shares]).sum(0)
        torch.testing.assert_close(total, parameter.grad, rtol=1e-11, atol=1e-10)
    for name, buffer in norm.named_buffers():
        for share in shares:
            torch.testing.assert_close(share[name], buffer, rtol=1e-11, atol=1e-11)


def test_a_gradient_in_another_layout_than_the_input_is_understood() -> None:
    """Channels-last images whose gradient comes contiguous, or expanded from a mean."""
    x = (3 * torch.randn(6, 3, 4, 4) + 5).contiguous(memory_format=torch.channels_last)
    weigh = torch.randn(6, 3, 4, 4)
    halves, whole = x.clone().requires_grad_(), x.clone().requires_grad_()
    norm, at_once = nn.BatchNorm2d(3), globalize_batch_norm(nn.BatchNorm2d(3), views=2)
    for y in (torch.cat([norm(part) for part in halves.chunk(2)]), at_once(whole)):
        ((y * weigh).sum() + y.mean((2, 3)).square().sum()).backward()
    torch.testing.assert_close(whole.grad, halves.grad, rtol=1e-5, atol=1e-5)


def test_rows_that_are_no_whole_number_of_views_are_refused() -> None:
    with pytest.raises(ValueError, match="a multiple of 2"):
        globalize_batch_norm(nn.BatchNorm1d(3), views=2)(torch.zeros(5, 3))


def test_in_eval_mode_any_number_of_rows_may_come() -> None:
    norm, x = nn.BatchNorm1d(3).eval(), torch.randn(5, 3)
    assert torch.equal(globalize_batch_norm(norm, views=2)(x), norm(x))


def test_one_worker_uses_torchs_own() -> None:
    norm, x, weigh = make((8, 3, 4, 4), torch.float32)
    expected = outcome(copy.deepcopy(norm), x.clone(), weigh)
    got = outcome(globalize_batch_norm(norm), x.clone(), weigh)
    for name, value in expected.items():
        assert torch.equal(got[name], value), name


def test_conversion_keeps_parameters_and_names() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.BatchNorm1d(4), nn.ReLU()))
    before = dict(module.named_parameters())
    names = list(module.state_dict())
    globalize_batch_norm(module)
    assert isinstance(module[1][0], GlobalBatchNorm)
    assert list(module.state_dict()) == names
    assert all(before[name] is parameter for name, parameter in module.named_parameters())


def _activated_share(rank: int, world_size: int) -> dict[str, Tensor]:
    norm, x, weigh = _activated()
    start = sum(ROWS[:rank])
    mine = slice(start, start + ROWS[rank])
    return outcome(globalize_batch_norm(norm), x[mine].clone(), weigh[mine])


def _activated() -> tuple[nn.Module, Tensor, Tensor]:
    from timm.layers import BatchNormAct2d

    _, x, weigh = make((8, 3, 4, 4), torch.float64)
    return BatchNormAct2d(3, act_layer="silu").double(), x, weigh


def test_timms_batch_norm_keeps_its_activation_over_all_workers() -> None:
    norm, x, weigh = _activated()
    names = set(norm.state_dict())
    expected = outcome(norm, x, weigh)
    shares = run_workers(len(ROWS), _activated_share)
    for name in ("y", "x"):
        joined = torch.cat([share[name] for share in shares])
        torch.testing.assert_close(joined, expected[name], rtol=1e-11, atol=1e-11)
    assert (expected["y"] < 0).any()
    assert float(expected["y"].min()) > -0.3, "SiLU lets nothing below through"
    assert set(globalize_batch_norm(_activated()[0]).state_dict()) == names
