"""Batched photometry: what is drawn as a table, the kernels by Triton's interpreter, the counts."""

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bt_ray.config import ViewSettings
from bt_ray.data.views.draw import CONTRAST, HUE
from bt_ray.data.views.photometry import apply_photometry, fused, tabulate
from bt_ray.data.views.photometry.eager import apply_eager
from bt_ray.data.views.photometry.table import NEVER, NO_CHANGE, NUM_COLUMNS, Column, Table
from bt_ray.data.views.reference import extended_box
from tests.data.views.test_views import draw
from tests.gpu.trace import GPU, Trace, fake_gpu, needs_fake_gpu

N, PX = 64, 224
"""A worker's images in a step on 32 V100s, and the size of a view."""
MANY_CHANGES = ViewSettings(
    jitter_probability=0.9, grayscale_probability=0.2, blur_probability=(0.6, 0.6),
    blur_sigma_px=(0.1, 4.0), solarize_probability=(0.3, 0.3), jitter_hue=0.4,
)  # fmt: skip


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def both_views() -> Table:
    """What is drawn for a worker's step, the paper's way."""
    return np.concatenate([tabulate(draw(count=N, view=view), 128) for view in (0, 1)])


def test_the_table_says_what_was_drawn() -> None:
    p = draw(count=200, view=1)
    table = tabulate(p, 100)
    assert table.shape == (200, NUM_COLUMNS)
    assert (table[~p.jitter, :4] == NO_CHANGE).all()
    assert (table[p.jitter, :4] == p.jitter_order[p.jitter]).all()
    for row in range(200):
        at = int(table[row, Column.CONTRAST_AT])
        assert (at == NO_CHANGE) == (not p.jitter[row])
        assert at == NO_CHANGE or p.jitter_order[row, at] == CONTRAST
        box = extended_box(float(p.blur_sigma_px[row])) if p.blur_sigma_px[row] else [1.0]
        reach, edge, inner = table[row, [Column.BLUR_REACH, Column.BLUR_EDGE, Column.BLUR_INNER]]
        taps = [edge, *[inner] * (2 * int(reach) - 1), edge] if reach else [edge]
        np.testing.assert_allclose(taps, box, rtol=1e-6)
    assert (table[:, Column.SOLARIZE_FROM] == np.where(p.solarize, 100, NEVER)).all()
    assert (table[:, Column.HUE] == [int(turns * 255) for turns in p.hue]).all()


def test_a_hue_that_stays_is_left_alone() -> None:
    """The way to HSV and back would round it."""
    p = replace(draw(count=50), hue=np.zeros(50, np.float32))
    assert not (tabulate(p, 128)[:, :4] == HUE).any()


INTERPRET = """
import sys
import numpy as np
import torch
from bt_ray.data.views.photometry import fused
made = []
for name in sys.argv[1:-1]:
    with np.load(name) as given:
        launches = fused.plan(*(torch.from_numpy(given[x]) for x in ("levels", "drawn")))
    for launch in launches:
        for tensor in launch.writes:
            tensor.fill_(77)
    for launch in launches:
        before = [tensor.clone() for tensor in launch.reads]
        launch.start()
        assert all(map(torch.equal, launch.reads, before)), launch.kernel
    made.append(launches[-1].writes[0].numpy())
np.savez(sys.argv[-1], *made)
"""


def test_the_kernels_make_the_levels_of_torchs_operations(tmp_path: Path) -> None:
    """All levels, by Triton's interpreter, whatever was in the memory that they write to.

    Six views for which everything was drawn that can be, and one of more pixels than a program
    works on.
    """
    pytest.importorskip("triton")
    drawn = tabulate(draw(MANY_CHANGES, count=6, first=104), 128)
    assert len(set(drawn[:, Column.CONTRAST_AT])) == 5
    assert len(set(drawn[:, Column.BLUR_REACH])) >= 4
    for column, never in ((Column.GRAYSCALE, 0), (Column.SOLARIZE_FROM, NEVER)):
        assert 0 < np.sum(drawn[:, column] != never) < 6
    large = tabulate(draw(MANY_CHANGES, count=1, first=3), 128)
    cases = [(noise(6, 3, 11, 23), drawn), (noise(1, 3, 36, 33), large)]
    given = [tmp_path / f"{number}.npz" for number in range(len(cases))]
    for file, (levels, table) in zip(given, cases, strict=True):
        np.savez(file, levels=levels, drawn=table)
    # Triton decides at the import of its kernels whether they are interpreted.
    subprocess.run(
        [sys.executable, "-c", INTERPRET, *given, tmp_path / "made.npz"],
        env=os.environ | {"TRITON_INTERPRET": "1"}, check=True,
    )  # fmt: skip
    with np.load(tmp_path / "made.npz") as made:
        for found, (levels, table) in zip(made.values(), cases, strict=True):
            expected = apply_eager(torch.from_numpy(levels), table, torch.from_numpy(table))
            assert (expected.numpy() != levels).any()
            np.testing.assert_array_equal(found, expected.numpy())


_TYPES = {torch.uint8: "*u8", torch.int32: "*i32", torch.float32: "*fp32"}


@pytest.mark.parametrize("capability", [70, 90])
@pytest.mark.parametrize("kernel", ["luma_sums", "jitter", "box_pass"])
def test_the_kernels_compile_for_v100_and_h100(
    kernel: str, capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To machine code, without a GPU; no product is fused with a sum, which would round others."""
    pytest.importorskip("triton")
    from triton import compile as compile_kernel
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from bt_ray.data.views.photometry import kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    launch = next(x for x in reversed(step_launches()) if x.kernel == kernel)
    function = getattr(kernels, kernel)
    types = [_TYPES[t.dtype] for t in (*launch.reads, *launch.writes)]
    types += ["i32"] * (len(launch.sizes) + 1)
    signature = dict(zip(function.arg_names, types, strict=False))
    signature |= dict.fromkeys(launch.constants, "constexpr")
    source = ASTSource(function, signature=signature, constexprs=launch.constants)
    made: Any = compile_kernel(
        source, target=GPUTarget("cuda", capability, 32), options={"enable_fp_fusion": False}
    )
    assert len(made.asm["cubin"]) > 0
    assert "fma.rn.f32" not in made.asm["ptx"]
    assert "div.full.f32" not in made.asm["ptx"]


def test_more_views_than_a_grid_is_long_are_launched_in_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All of them, each with its own row of the table."""
    monkeypatch.setattr(fused, "_MOST_VIEWS", 3)
    launches = list[fused.Launch]()

    def copied(launch: fused.Launch) -> None:
        launches.append(launch)
        if launch.kernel == "box_pass":
            launch.writes[0].copy_(launch.reads[1][:, :1, None, None])

    monkeypatch.setattr(fused.Launch, "start", copied)
    table = torch.arange(7.0)[:, None].expand(7, NUM_COLUMNS)
    made = fused.apply_fused(torch.zeros(7, 3, 4, 4, dtype=torch.uint8), table)
    assert torch.equal(made[:, 0, 0, 0], torch.arange(7, dtype=torch.uint8))
    assert {launch.grid[1] for launch in launches} == {3, 1}


def step_launches() -> list[fused.Launch]:
    """Those of a worker's step, both views at once."""
    levels = torch.empty(2 * N, 3, PX, PX, dtype=torch.uint8, device="meta")
    return fused.plan(levels, torch.empty(2 * N, NUM_COLUMNS, device="meta"))


def test_a_steps_photometry_is_eight_launches_on_bytes() -> None:
    """Both views of 64 images: of 200 launches and 8 GB that are allowed."""
    launches = step_launches()
    assert len(launches) == 8
    assert sum(launch.num_bytes for launch in launches) < 0.3e9
    chain = [launch.writes[0] for launch in launches[1:]]
    for before, after in zip(chain, launches[2:], strict=False):
        assert after.reads[0] is before
        assert after.writes[0] is not before


@needs_fake_gpu
def test_without_triton_a_steps_photometry_asks_the_device_for_nothing() -> None:
    """492 launches, 18.3 GB on float32, and neither a copy nor a wait (docs/performance.md)."""
    drawn = both_views()
    with fake_gpu(), Trace() as trace:
        levels = torch.empty(2 * N, 3, PX, PX, dtype=torch.uint8, device=GPU)
        finished = apply_eager(levels, drawn, torch.empty(2 * N, NUM_COLUMNS, device=GPU))
    assert finished.dtype == torch.uint8
    assert not trace.crossings
    assert trace.num_launches <= 500
    assert trace.bytes < 19e9


def test_no_kernel_is_tried_on_a_cpu_or_where_triton_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Triton is made for Linux alone."""
    monkeypatch.setattr(fused, "apply_fused", MagicMock(side_effect=AssertionError))
    assert not fused.is_usable.__wrapped__(torch.device("cpu"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not fused.is_usable.__wrapped__(GPU)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Failed to find C compiler."),
        CalledProcessError(1, ["gcc"]),
        ImportError("libcuda.so.1"),
    ],
)
def test_where_the_kernels_fail_the_run_says_so_and_does_without(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A GPU without a compiler beside it trains, too."""
    pytest.importorskip("triton")
    monkeypatch.setattr(fused, "torch", MagicMock())
    monkeypatch.setattr(fused, "apply_fused", MagicMock())
    assert fused.is_usable.__wrapped__(GPU)
    monkeypatch.setattr(fused, "apply_fused", MagicMock(side_effect=error))
    assert not fused.is_usable.__wrapped__(GPU)
    assert f"{type(error).__name__}: {error}" in caplog.text


@pytest.mark.gpu
@pytest.mark.parametrize("way", ["fused", "eager"])
def test_a_gpus_levels_are_the_cpus(way: str) -> None:
    """On average within a level of 255, and within 8 at the 99.9th percentile, each view."""
    device = torch.device("cuda")
    drawn = tabulate(draw(MANY_CHANGES, count=32), 128)
    levels = torch.from_numpy(noise(32, 3, 96, 80))
    expected = apply_photometry(levels, drawn)
    there, table = levels.to(device), torch.from_numpy(drawn).to(device)
    if way == "fused":
        assert fused.is_usable(device)
        got = fused.apply_fused(there, table).cpu()
    else:
        got = apply_eager(there, drawn, table).cpu()
    off = (got.float() - expected.float()).abs().flatten(1)
    assert off.mean(dim=1).max() <= 1
    assert off.quantile(0.999, dim=1).max() <= 8
