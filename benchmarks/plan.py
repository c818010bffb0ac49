"""What a window of k row groups costs and brings, in ImageNet: `python -m benchmarks.plan`."""

import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import tyro
from rich.table import Table

from bt_ray.data.stream.plan import Plan
from bt_ray.errors import SettingsError
from pipelines.terminal import console, finish, guarded

_EPOCHS = 300


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Memory, mixing and speed of the plan for some sizes of its window."""

    images: int = 1_281_167
    """Rows of the data set."""
    image_kb: float = 110
    """Average size of an encoded image."""
    rows_per_row_group: int = 256
    """Rows of a row group."""
    global_batch: int = 2048
    """N."""
    windows: tuple[int, ...] = (8, 16, 32, 64, 128, 256)
    """Row groups of a window, k."""
    json: bool = False
    """Print one line of JSON on stdout."""

    def __post_init__(self) -> None:
        if min(self.images, self.rows_per_row_group, self.global_batch, *self.windows) < 1:
            raise SettingsError("Sizes and numbers must be at least 1.")


def main() -> None:
    """Parses the command line, measures each window, prints a table."""
    order = guarded(lambda: tyro.cli(Benchmark, prog="python -m benchmarks.plan"))
    rows = guarded(lambda: [measure(order, k) for k in order.windows])
    table = Table("k", "MB held", "neighbours of one row group", "1/k", "ms to jump to a step")
    for row in rows:
        table.add_row(
            f"{row['k']}",
            f"{row['mb']:,.0f}",
            f"{row['neighbours']:.4f}",
            f"{1 / row['k']:.4f}",
            f"{row['jump_ms']:.2f}",
        )
    console.print(table)
    if order.json:
        finish({"name": "plan", "windows": rows, "images": order.images})


def measure(order: Benchmark, k: int) -> dict[str, Any]:
    """One row of the table."""
    plan = Plan(order.images, order.rows_per_row_group, order.global_batch, 0, k)
    plan.batch(0)
    random = np.random.default_rng(0)
    seconds, same = [], []
    for step in random.integers(0, _EPOCHS * plan.steps_per_epoch, 50).tolist():
        began = time.perf_counter()
        rows = plan.batch(step)
        seconds.append(time.perf_counter() - began)
        groups = rows // order.rows_per_row_group
        same.append(float(np.mean(groups[1:] == groups[:-1])))
    return {
        "k": k,
        "mb": round(k * order.rows_per_row_group * order.image_kb / 1000, 1),
        "neighbours": round(float(np.mean(same)), 5),
        "jump_ms": round(1000 * median(seconds), 3),
    }


if __name__ == "__main__":
    main()
