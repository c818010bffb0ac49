"""Looks at every node, and says what is wrong: `python -m pipelines.doctor [--storage …]`."""

import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro
from rich.table import Table
from rich.text import Text

from bt_ray.doctor.finding import Finding
from pipelines.terminal import command, console, finish, guarded, say

if TYPE_CHECKING:
    from bt_ray.doctor.examination import Examination

_COLOURS = {"good": "green", "note": "yellow", "wrong": "bold red"}


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Looks at every node of the Ray cluster, or at this machine, and says how to mend faults.

    The cluster is that of RAY_ADDRESS; the MLflow server that of MLFLOW_TRACKING_URI. It takes
    less than a minute, and leaves nothing behind but a deleted run of MLflow's. The exit code is 2
    if something is wrong.
    """

    storage: str = "runs"
    """Where runs are to be kept, as `pretrain --storage`: every node writes and reads there."""
    data: str | None = None
    """Images, as `pretrain --data.train`: every node reads some."""
    json: bool = False
    """Print the line of JSON alone, without the table."""


@command
def main() -> None:
    """Parses the command line, looks, prints what was found."""
    order = guarded(lambda: tyro.cli(Doctor, prog="python -m pipelines.doctor"))
    began = time.perf_counter()
    examination, findings = guarded(lambda: _examine(order))
    if not order.json:
        show(findings)
    finish(record(examination, findings, time.perf_counter() - began))
    if any(finding.state == "wrong" for finding in findings):
        sys.exit(2)


def _examine(order: Doctor) -> tuple["Examination", list[Finding]]:
    from bt_ray.doctor.examination import Orders
    from bt_ray.doctor.examine import examine, judge

    examination = examine(
        Orders(
            storage=_absolute(order.storage),
            images=None if order.data is None else _absolute_if_there(order.data),
            tracking_uri=os.environ.get("MLFLOW_TRACKING_URI") or None,
        )
    )
    return examination, judge(examination)


def _absolute(name: str) -> str:
    """A path as nodes must be told it, whose working folders are others."""
    return name if "://" in name else str(Path(name).expanduser().resolve())


def _absolute_if_there(name: str) -> str:
    """The same of what is a path here; names of data sets, and patterns, stay."""
    return _absolute(name) if Path(name).expanduser().exists() else name


def record(examination: "Examination", findings: list[Finding], seconds: float) -> dict[str, Any]:
    """What programs are told: whether all is well, each finding, and the facts behind them."""
    count = {state: sum(f.state == state for f in findings) for state in _COLOURS}
    facts = asdict(examination)
    del facts["orders"]
    return {
        "healthy": count["wrong"] == 0,
        **count,
        "seconds": round(seconds, 1),
        "findings": [asdict(finding) for finding in findings],
        "facts": facts,
    }


def show(findings: list[Finding]) -> None:
    """A table for people, and below it a sentence for everything that is not good."""
    table = Table(title="What the doctor found")
    for heading in ("", "where", "found", "state"):
        table.add_column(heading, overflow="fold")
    for check, place, found, state in _rows(findings):
        colour = _COLOURS[state]
        table.add_row(check, place, found, Text(state, colour))
    console.print(table)
    for finding in findings:
        if finding.state != "good":
            say(finding.state, finding.advice, _COLOURS[finding.state])


def _rows(findings: list[Finding]) -> list[tuple[str, str, str, str]]:
    """A line for each finding; nodes of which the same good thing was found share one."""
    places: dict[tuple[str, str, str], list[str]] = {}
    for one in findings:
        apart = "" if one.state == "good" else one.place
        places.setdefault((one.check, f"{one.found}\0{apart}", one.state), []).append(one.place)
    return [
        (check, ", ".join(on) if len(on) <= 3 else f"{len(on)} nodes", found.split("\0")[0], state)
        for (check, found, state), on in places.items()
    ]


if __name__ == "__main__":
    main()
