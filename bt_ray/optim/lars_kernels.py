"""What LARS does to weights on a GPU, in two kernels a weight by Triton.

Importing this file needs Triton, which exists on Linux alone.
"""

from collections.abc import Sequence
from subprocess import SubprocessError

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.errors import TritonError

from bt_ray.optim.lars_update import Triple, Update, trust_ratios

SUMMED = 16384
"""Numbers that one program of `add_squares` sums."""
BLOCK = 2048
"""Numbers that a program holds at a time."""
_ALIGNED = 16
_FAILURES = (ImportError, OSError, RuntimeError, SubprocessError, TritonError)


def _add_squares(  # type: ignore[no-untyped-def]
    weight,
    gradient,
    unscaling,
    sums,
    index,
    width,
    weight_decay,
    count,
    SUMMED: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    """Sums w² and d² of `SUMMED` numbers into `sums`, (weights, 2, width)."""
    program = tl.program_id(0)
    start = program.to(tl.int64) * SUMMED
    factor = tl.load(unscaling)
    of_weight = tl.zeros((BLOCK,), tl.float32)
    of_update = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, SUMMED, BLOCK):
        places = start + first + tl.arange(0, BLOCK)
        w = tl.load(weight + places, mask=places < count, other=0.0)
        g = tl.load(gradient + places, mask=places < count, other=0.0)
        d = g * factor + weight_decay * w
        of_weight += w * w
        of_update += d * d
    place = sums + index * 2 * width + program
    tl.store(place, tl.sum(of_weight, 0))
    tl.store(place + width, tl.sum(of_update, 0))


def _move(  # type: ignore[no-untyped-def]
    weight,
    gradient,
    momentum,
    unscaling,
    found_inf,
    ratios,
    index,
    rate,
    weight_decay,
    decay_of_momentum,
    count,
    BLOCK: tl.constexpr,  # noqa: N803
):
    """Moves `BLOCK` numbers of the momentum and of the weight; none if infinities were found."""
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    moves = places < tl.where(tl.load(found_inf) == 0, count, 0)
    ratio = tl.load(ratios + index)
    w = tl.load(weight + places, mask=moves, other=0.0)
    g = tl.load(gradient + places, mask=moves, other=0.0)
    m = tl.load(momentum + places, mask=moves, other=0.0)
    d = g * tl.load(unscaling) + weight_decay * w
    m = decay_of_momentum * m + ratio * d
    tl.store(momentum + places, m, mask=moves)
    tl.store(weight + places, w - rate * m, mask=moves)


# The place in a list is no reason to compile again.
add_squares = triton.jit(_add_squares, do_not_specialize=["index"])
move = triton.jit(_move, do_not_specialize=["index"])


def why_not(device: torch.device) -> str:
    """Why the kernels cannot be compiled for `device`; nothing if they can.

    Triton compiles when a kernel first runs, and needs a C compiler and Python's headers.
    """
    w, g, m = torch.zeros(3, _ALIGNED, device=device)
    still = Update(rate=0, weight_decay=0, momentum=0, trust_coefficient=0, adapt=True)
    try:
        update_by_kernels([Triple(w, g, m)], still)
    except _FAILURES as error:
        return f"{type(error).__name__}: {error}"
    return ""


def update_by_kernels(triples: Sequence[Triple], update: Update) -> None:
    """Moves adapted weights and their momenta, float32 and dense, all three in the same order.

    Per parameter 28 bytes are read or written, the least there can be: w and g for the norms,
    which must be known before anything moves; w, g and m again; m and w back. A skipped step
    stops after 8. There are two launches a weight and about ten small ones; no temporary is as
    large as a gradient, and nothing waits for the device.

    A norm is off by at most (SUMMED / BLOCK + log₂ BLOCK + 4) / 2 · 2⁻²⁴ of itself, 1e-6, besides
    what rounding does to d: up to `SUMMED` squares are summed in float32, and these sums in
    float64. No sum depends on the order in which programs run.
    """
    like = triples[0].w
    unscaling = like.new_ones(()) if update.grad_scale is None else _inverse(update.grad_scale)
    found_inf = like.new_zeros(()) if update.found_inf is None else update.found_inf
    rate, decay, mu = float(update.rate), float(update.weight_decay), float(update.momentum)
    most = max(_programs(w, SUMMED) for w, _, _ in triples)
    width = -(-most // _ALIGNED) * _ALIGNED
    sums = like.new_zeros(len(triples), 2, width)
    with torch.cuda.device_of(like):
        for index, (w, g, _) in enumerate(triples):
            add_squares[_programs(w, SUMMED),](
                w, g, unscaling, sums, index, width, decay, w.numel(), SUMMED, BLOCK
            )
        of_weights, of_updates = sums.sum(-1, dtype=torch.float64).sqrt().unbind(1)
        ratios = trust_ratios(of_weights, of_updates, update.trust_coefficient).float()
        for index, (w, g, m) in enumerate(triples):
            move[_programs(w, BLOCK),](
                w, g, m, unscaling, found_inf, ratios, index, rate, decay, mu, w.numel(), BLOCK
            )


def _inverse(scale: Tensor) -> Tensor:
    return scale.double().reciprocal().float()


def _programs(weight: Tensor, size: int) -> int:
    return -(-weight.numel() // size)
