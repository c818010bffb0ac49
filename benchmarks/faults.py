"""What a run survives: `python -m benchmarks.faults --json`.

On three emulated nodes (root, no Docker), each fault happens to a run of its own, after a step that
the seed draws. Told is of each whether it came out as promised, the steps that were lost, the
seconds until the next step, the rate before and after, and whether the weights at the end are bit
for bit those of a run that nothing happened to. Results are kept in the folder: a campaign that was
ended goes on with the faults that are missing.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.table import Table

from benchmarks.faults_campaign import Campaign
from benchmarks.faults_list import FAULTS
from benchmarks.faults_place import make_place
from benchmarks.faults_results import Results, code_digest, whole
from benchmarks.faults_run import quiet_environment
from benchmarks.training import describe_machine
from bt_ray.errors import SettingsError
from pipelines.terminal import console, finish, guarded


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Share of the faults that come out as promised."""

    seed: int = 0
    """Draws after which step a fault happens, and to whom."""
    only: str | None = None
    """Names of the faults, separated by commas; none: all."""
    folder: Path = Path("runs/faults")
    """For the runs, logs and results; results of other code or another seed are dropped."""
    again: bool = False
    """Do not take a result from the folder."""
    json: bool = False
    """Print one line of JSON on stdout."""

    def names(self) -> tuple[str, ...]:
        """The faults that are wanted. Raises: SettingsError for a name that none has."""
        names = tuple(FAULTS) if self.only is None else tuple(self.only.split(","))
        if unknown := [name for name in names if name not in FAULTS]:
            raise SettingsError(
                f"--only {self.only}: no fault is called {', '.join(unknown)}; there are "
                f"{', '.join(FAULTS)}."
            )
        return names


def main() -> None:
    """Parses the command line, inflicts the faults, prints what came of them."""
    order = guarded(lambda: tyro.cli(Benchmark, prog="python -m benchmarks.faults"))
    found = guarded(lambda: campaign(order))
    record = whole(found, tuple(FAULTS))
    console.print(_table(record))
    console.print(f"as promised: {record['ratio']:.2f} of all {len(FAULTS)}")
    if order.json:
        finish({"name": "faults", "seed": order.seed} | record | describe_machine())


def campaign(order: Benchmark) -> dict[str, dict[str, Any]]:
    """The result of each fault so far, by name; those that are wanted and missing are made."""
    names = order.names()
    quiet_environment()
    order.folder.mkdir(parents=True, exist_ok=True)
    code = code_digest()
    results = Results(order.folder / "results.json", f"seed {order.seed}, code {code}")
    wanted = [name for name in names if order.again or name not in results.by_name]
    if not wanted:
        return results.by_name
    mounts = [s for s in ("small", "far") if any(FAULTS[n].storage == s for n in wanted)]
    with make_place(order.folder, mounts) as place:
        suffers = Campaign(place, order.seed, code)
        for name in wanted:
            [result] = suffers.suffer(FAULTS[name])
            results.add(name, result)
            console.print(f"{name}: {result.outcome}")
    return results.by_name


def _table(record: dict[str, Any]) -> Table:
    columns = ("fault", "outcome", "steps lost", "next step, s", "steps/s before, after", "weights")
    table = Table(*columns, title="Faults")
    for name, result in record["faults"].items():
        mark = "" if result["as_promised"] else "✗ "
        next_s = "" if result["next_step_s"] is None else f"{result['next_step_s']:.1f}"
        rates = f"{result['rate_before']:.2f}, {result['rate_after']:.2f}"
        equal = "equal" if result["weights_equal"] else "–"
        lost = str(result["steps_lost"])
        table.add_row(mark + name, result["outcome"][:60], lost, next_s, rates, equal)
    return table


if __name__ == "__main__":
    main()
