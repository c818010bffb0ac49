"""LARS by Triton: kernels run by Triton's interpreter, and compiled for GPUs that are absent."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from bt_ray.optim import lars
from bt_ray.optim.lars import LARS
from bt_ray.optim.lars_update import Triple, Update, update_plainly

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is for Linux.")

Interpret = Callable[..., Any]


@pytest.fixture(scope="module")
def interpret() -> Iterator[Interpret]:
    """Calls a function where Triton was imported as an interpreter, which is another process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_interpret) as pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result(timeout=120)


def _interpret() -> None:
    os.environ["TRITON_INTERPRET"] = "1"
    torch.set_num_threads(1)


def _update(**others: Any) -> Update:
    numbers = {"rate": 0.3, "weight_decay": 0.01, "momentum": 0.9, "trust_coefficient": 0.02}
    return Update(**{"adapt": True, **numbers, **others})


def _triples(dtype: torch.dtype = torch.float32, scale: float = 1.0) -> list[Triple]:
    """At the borders of blocks, in another order of memory, of one number, and of zeros."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(2048, 1), (16384, 1), (127, 129), (67, 491), (32, 3, 7, 7), (1, 1), (5, 5)]
    triples = []
    for shape in shapes:
        w, g, m = (torch.randn(shape, generator=generator) for _ in range(3))
        if len(shape) == 4:
            w, g, m = (t.contiguous(memory_format=torch.channels_last) for t in (w, g, m))
        triples.append(Triple(w.to(dtype), (g * scale).to(dtype), m.to(dtype)))
    triples[-1].w.zero_()
    return triples


def _two_steps(scale: float) -> list[tuple[Tensor, Tensor]]:
    from bt_ray.optim.lars_kernels import update_by_kernels

    triples = _triples(scale=scale)
    scaling = {"grad_scale": torch.tensor(scale), "found_inf": torch.zeros(())}
    for _ in range(2):
        update_by_kernels(triples, _update(**scaling if scale != 1 else {}))
    return [(w, m) for w, _, m in triples]


@pytest.mark.parametrize("scale", [1, 3])
def test_kernels_equal_plain_operations_in_float64(interpret: Interpret, scale: float) -> None:
    expected = _triples(torch.float64)
    for _ in range(2):
        for triple in expected:
            update_plainly(triple, _update())
    for (w, m), reference in zip(interpret(_two_steps, scale), expected, strict=True):
        torch.testing.assert_close(w.double(), reference.w, rtol=1e-6, atol=2e-6)
        torch.testing.assert_close(m.double(), reference.m, rtol=1e-6, atol=2e-6)


def _ratio(count: int) -> tuple[float, float]:
    """A large weight's trust ratio, as the kernels had it and by float64."""
    from bt_ray.optim.lars_kernels import update_by_kernels

    generator = torch.Generator().manual_seed(1)
    w, g = torch.randn(2, count, generator=generator).exp().unbind()
    # Of whole numbers d is exact, whatever is done first.
    w, g = w.mul(64).round(), g.mul(64).round()
    m = torch.zeros_like(w)
    norms = w.double().norm(), (g + w).double().norm()
    update_by_kernels([Triple(w, g, m)], _update(weight_decay=1.0, trust_coefficient=1.0, rate=0.0))
    d = (g + w).double()
    return float(m.double() @ d / (d @ d)), float(norms[0] / norms[1])


def test_norms_are_as_near_as_they_say(interpret: Interpret) -> None:
    got, expected = interpret(_ratio, 300_001)
    assert got == pytest.approx(expected, rel=2e-6)


def _overflow() -> list[tuple[Triple, Triple]]:
    from bt_ray.optim.lars_kernels import update_by_kernels

    triples = _triples()
    for _, g, _ in triples[::2]:
        g[(0,) * g.dim()] = torch.inf if g.numel() > 1 else torch.nan
    before = [Triple(*(t.clone() for t in triple)) for triple in triples]
    update_by_kernels(triples, _update(grad_scale=torch.ones(()), found_inf=torch.ones(())))
    return list(zip(triples, before, strict=True))


def test_with_infinities_nothing_moves(interpret: Interpret) -> None:
    for after, before in interpret(_overflow):
        assert torch.equal(after.w, before.w)
        assert torch.equal(after.m, before.m)


def _parameters() -> list[nn.Parameter]:
    """channels-last, 1×1, not dense, of another type."""
    torch.manual_seed(0)
    weights = [
        nn.Parameter(torch.randn(8, 4, 3, 3).to(memory_format=torch.channels_last)),
        nn.Parameter(torch.randn(8, 4, 1, 1).to(memory_format=torch.channels_last)),
        nn.Parameter(torch.randn(8, 10)[:, ::2]),
        nn.Parameter(torch.randn(8, 10, dtype=torch.float64)),
    ]
    for weight in weights:
        weight.grad = torch.randn(weight.shape, dtype=weight.dtype)
    return weights


def _three_steps(by_kernels: bool) -> tuple[list[Tensor], int]:
    """Weights after two steps and, resumed from contiguous momenta, one more; and by kernels."""
    numbers = {"lr": 0.3, "weight_decay": 0.01, "momentum": 0.9, "trust_coefficient": 0.02}
    weights, taken = _parameters(), 0
    found: Any = None
    if by_kernels:
        from bt_ray.optim.lars_kernels import update_by_kernels

        def found(triples: list[Triple], update: Update) -> None:
            nonlocal taken
            taken += len(triples)
            assert all(g.stride() == m.stride() or g.shape[-1] == 1 for _, g, m in triples)
            update_by_kernels(triples, update)

    with patch.object(lars, "kernels", lambda device: found):
        optimizer = LARS([{"params": weights}], **numbers)
        optimizer.step()
        optimizer.step()
        kept = optimizer.state_dict()
        for state in kept["state"].values():
            state["momentum"] = state["momentum"].contiguous()
        resumed = LARS([{"params": weights}], **numbers)
        resumed.load_state_dict(kept)
        resumed.step()
    return [w.detach() for w in weights], taken


def test_orders_of_memory_that_differ_are_no_mistake(interpret: Interpret) -> None:
    """A channels-last weight with a contiguous gradient, and with a momentum out of a file."""
    expected, none = _three_steps(False)
    got, taken = interpret(_three_steps, True)
    assert (none, taken) == (0, 6)
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def _bytes_of_a_step(found_inf: float) -> tuple[int, int]:
    """Bytes that the kernels load and store, counted by the interpreter; parameters."""
    from triton.runtime.interpreter import InterpreterBuilder

    from bt_ray.optim.lars_kernels import update_by_kernels

    moved = 0

    def counted(name: str, place: int) -> Any:
        original = getattr(InterpreterBuilder, name)

        def access(self: Any, *arguments: Any) -> Any:
            nonlocal moved
            moved += 4 * int(arguments[place].data.sum())
            return original(self, *arguments)

        return patch.object(InterpreterBuilder, name, access)

    triples = _triples()
    scaling = {"grad_scale": torch.ones(()), "found_inf": torch.tensor(found_inf)}
    with counted("create_masked_load", 1), counted("create_masked_store", 2):
        update_by_kernels(triples, _update(**scaling))
    return moved, sum(w.numel() for w, _, _ in triples)


@pytest.mark.parametrize(("found_inf", "least"), [(0, 28), (1, 8)])
def test_a_parameter_costs_28_bytes_and_a_skipped_one_8(
    interpret: Interpret, found_inf: float, least: int
) -> None:
    moved, parameters = interpret(_bytes_of_a_step, found_inf)
    assert least * parameters <= moved < 1.01 * least * parameters


SIGNATURES = {
    "add_squares": ("weight gradient unscaling sums", "index width weight_decay count"),
    "move": (
        "weight gradient momentum unscaling found_inf ratios",
        "index rate weight_decay decay_of_momentum count",
    ),
}
"""Pointers and numbers."""


@pytest.mark.parametrize("capability", [70, 80, 90])
@pytest.mark.parametrize("name", SIGNATURES)
def test_kernels_compile_for_gpus_and_take_16_bytes_at_once(
    name: str, capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interpreter takes more than the compiler does."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from bt_ray.optim import lars_kernels

    kernel = getattr(lars_kernels, name)
    pointers, numbers = (names.split() for names in SIGNATURES[name])
    constants = {"BLOCK": lars_kernels.BLOCK}
    if name == "add_squares":
        constants["SUMMED"] = lars_kernels.SUMMED
    whole = {"index", "width", "count"}
    signature = dict.fromkeys(pointers, "*fp32")
    signature |= {number: "i32" if number in whole else "fp32" for number in numbers}
    assert {*signature, *constants} == set(kernel.arg_names)
    places = {argument: (place,) for place, argument in enumerate(kernel.arg_names)}
    divisible = [*pointers, *(whole & {*numbers} - {"index"})]
    source = ASTSource(
        kernel,
        signature=signature | dict.fromkeys(constants, "constexpr"),
        constexprs={places[constant]: value for constant, value in constants.items()},
        attrs={places[argument]: [["tt.divisibility", 16]] for argument in divisible},
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    ptx = compiled.asm["ptx"]
    assert "ld.global.v4" in ptx
    assert ("st.global.v4" in ptx) == (name == "move")
    assert "atom" not in ptx
    assert "local" not in ptx


@pytest.mark.gpu
def test_a_gpus_steps_equal_plain_ones_in_float64() -> None:
    numbers = {"lr": 0.3, "weight_decay": 0.01, "momentum": 0.9, "trust_coefficient": 0.02}
    ours = [Triple(*(t.cuda() for t in triple)) for triple in _triples()]
    theirs = _triples(torch.float64)
    weights = [nn.Parameter(w) for w, _, _ in ours]
    optimizer = LARS([{"params": weights}], **numbers)
    for weight, (_, g, m) in zip(weights, ours, strict=True):
        weight.grad, optimizer.state[weight]["momentum"] = g, m
    assert lars.kernels(torch.device("cuda:0")) is not None
    for _ in range(4):
        optimizer.step()
        for triple in theirs:
            update_plainly(triple, _update())
    for weight, reference in zip(weights, theirs, strict=True):
        torch.testing.assert_close(
            weight.detach().cpu().double(), reference.w, rtol=2e-6, atol=2e-6
        )
