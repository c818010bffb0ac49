"""Speed and memory of the loss's two forms and of lightly's: `python -m benchmarks.loss --json`.

It needs lightly too (pip install bt-ray[bench]). Each contender runs in a process of its own,
with a limit to its time and memory, and the contenders of a cell (N, D) take turns.
"""

import json
import math
import select
import subprocess
import sys
from dataclasses import dataclass, field
from statistics import median
from typing import Any, get_args

import tyro
from rich.table import Table

from benchmarks.losses import OUT_OF_MEMORY, PEER
from benchmarks.training import describe_machine
from bt_ray.errors import LaunchError, SettingsError
from bt_ray.objective.forms import Way, choose_way, cost
from pipelines.terminal import console, finish, guarded

_CONTENDERS = ("gram", "correlation", PEER)
_HEADLINE = (256, 8192)
_START_S = 60.0
_WORKERS = 32
"""For which the bytes sent are stated; tests/objective/test_forms.py counts them for 2 and 4."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Seconds, peak memory and bytes of one loss with its gradients, in float32 on the CPU."""

    num_samples: tuple[int, ...] = (256, 1024, 2048)
    """N: rows of the embeddings."""
    dimensions: tuple[int, ...] = (2048, 8192, 16_384, 32_768)
    """D: columns of the embeddings."""
    repeats: int = 7
    """Timed turns of each contender; fewer where they would take longer than `spend_s`."""
    spend_s: float = 8.0
    """No further turn of a contender that has taken this long in a cell."""
    limit_s: float = 30.0
    """A single turn that takes longer is given up, in all larger cells too."""
    memory_gb: int = 16
    """Memory of a contender beyond its embeddings."""
    threads: int = 2
    """Threads of a contender."""
    json: bool = False
    """Print one line of JSON on stdout."""

    def __post_init__(self) -> None:
        numbers = (*self.num_samples, *self.dimensions, self.repeats, self.threads, self.memory_gb)
        if min(numbers) < 1:
            raise SettingsError("Samples, dimensions, repeats, threads, memory must be at least 1.")


@dataclass
class Contender:
    """What is known of one contender in one cell."""

    name: str
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    fails: str | None = None
    """Why it has no figures."""

    @property
    def median_s(self) -> float:
        """Infinite for one that did not fit."""
        return median(self.seconds) if self.seconds and not self.fails else math.inf


@dataclass(frozen=True)
class Cell:
    """All contenders at one N and D."""

    num_samples: int
    num_dimensions: int
    contenders: dict[str, Contender]

    def ratio(self, name: str) -> float | None:
        """That contender's time over the Gram form's; None if one of them did not fit."""
        ratio = self.contenders[name].median_s / self.contenders["gram"].median_s
        return ratio if math.isfinite(ratio) else None

    @property
    def auto(self) -> str:
        """The form that `auto` takes on one worker."""
        way = choose_way(
            "auto",
            num_samples=self.num_samples,
            num_dimensions=self.num_dimensions,
            num_workers=1,
        )
        return "correlation" if way == "correlation" else "gram"

    @property
    def auto_excess(self) -> float:
        """Share by which the form that `auto` takes was slower than the better; 0 if none fits."""
        best = min(self.contenders[form].median_s for form in ("gram", "correlation"))
        return self.contenders[self.auto].median_s / best - 1 if math.isfinite(best) else 0.0

    def record(self) -> dict[str, Any]:
        """For programs: medians, or why there is none."""
        told = self.contenders.values()
        ways = {
            way: cost(
                way,
                num_samples=self.num_samples,
                num_dimensions=self.num_dimensions,
                num_workers=_WORKERS,
            )
            for way in get_args(Way)
        }
        return {
            "num_samples": self.num_samples,
            "num_dimensions": self.num_dimensions,
            "seconds": {c.name: c.fails or round(c.median_s, 5) for c in told},
            "turns": {c.name: len(c.seconds) for c in told},
            "peak_mb": {c.name: c.fails or round(c.peak_bytes / 1e6, 1) for c in told},
            f"sent_mb_of_{_WORKERS}": {w: round(c.bytes_sent / 1e6, 1) for w, c in ways.items()},
            "auto": self.auto,
        }


def main() -> None:
    """Parses the command line, measures every cell, prints the table."""
    order = guarded(lambda: tyro.cli(Benchmark, prog="python -m benchmarks.loss"))
    cells = guarded(lambda: measure(order))
    print_table(cells)
    if order.json:
        headline = [c for c in cells if (c.num_samples, c.num_dimensions) == _HEADLINE]
        ratios = {
            name: _rounded(headline[0].ratio(of) if headline else None)
            for name, of in (("ratio", "correlation"), ("ratio_peer", PEER))
        }
        worst = max(cell.auto_excess for cell in cells)
        finish(
            {"name": "loss"}
            | ratios
            | {"auto_slower": _rounded(worst), "cells": [cell.record() for cell in cells]}
            | {"threads": order.threads, "limit_s": order.limit_s, "memory_gb": order.memory_gb}
            | describe_machine()
        )


def measure(order: Benchmark) -> list[Cell]:
    """Every cell, from the smallest N and D up."""
    cells: list[Cell] = []
    for d in sorted(order.dimensions):
        for n in sorted(order.num_samples):
            contenders = {name: Contender(name) for name in _CONTENDERS}
            for smaller in cells:
                if smaller.num_samples <= n and smaller.num_dimensions <= d:
                    for name, contender in smaller.contenders.items():
                        contenders[name].fails = contenders[name].fails or contender.fails
            cell = Cell(n, d, contenders)
            with console.status(f"N = {n}, D = {d} …"):
                take_turns(order, cell)
            cells.append(cell)
            times = (f"{c.name} {c.fails or f'{c.median_s:.4f} s'}" for c in contenders.values())
            console.print(f"N = {n}, D = {d}: {', '.join(times)}")
    return cells


def take_turns(order: Benchmark, cell: Cell) -> None:
    """Fills in the cell; contenders that already failed take no part."""
    running = {
        c.name: start(order, cell, c.name) for c in cell.contenders.values() if c.fails is None
    }
    try:
        for _ in range(order.repeats):
            for name, process in running.items():
                contender = cell.contenders[name]
                if contender.fails is None and sum(contender.seconds) < order.spend_s:
                    take_turn(order, contender, process)
    finally:
        for process in running.values():
            process.kill()
            process.communicate()


def start(order: Benchmark, cell: Cell, name: str) -> subprocess.Popen[str]:
    """A contender's process, waiting for its first turn."""
    numbers = (cell.num_samples, cell.num_dimensions, order.threads, order.memory_gb)
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.losses", name, *map(str, numbers)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    if not listen(process, timeout_s=_START_S):
        process.kill()
        raise LaunchError(f"The process of {name} did not start; its error is above.")
    return process


def take_turn(order: Benchmark, contender: Contender, process: subprocess.Popen[str]) -> None:
    """One pass, timed by the contender itself."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    answer = listen(process, timeout_s=order.limit_s)
    if answer:
        told = json.loads(answer)
        contender.peak_bytes = told["peak_bytes"]
        contender.seconds.append(told["seconds"])
    elif answer is None:
        contender.fails = f"over {order.limit_s:g} s"
        process.kill()
    else:
        code = process.wait()
        killed = code in (OUT_OF_MEMORY, -9)
        contender.fails = f"over {order.memory_gb} GB" if killed else f"failed with {code}"


def listen(process: subprocess.Popen[str], *, timeout_s: float) -> str | None:
    """The next line of a process: empty if it ended, None if none came in time."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], timeout_s)
    return process.stdout.readline() if ready else None


def print_table(cells: list[Cell]) -> None:
    """A table for people."""
    table = Table("N", "D", *(f"{name}: ms, MB" for name in _CONTENDERS), "auto", title="The loss")
    for cell in cells:
        figures = (
            c.fails or f"{1e3 * c.median_s:,.1f}, {c.peak_bytes / 1e6:,.0f}"
            for c in cell.contenders.values()
        )
        table.add_row(str(cell.num_samples), str(cell.num_dimensions), *figures, cell.auto)
    console.print(table)


def _rounded(ratio: float | None) -> float | None:
    return None if ratio is None or math.isinf(ratio) else round(ratio, 3)


if __name__ == "__main__":
    main()
