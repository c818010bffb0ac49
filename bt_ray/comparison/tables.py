"""The tables of a comparison: scores, costs, what the paper publishes."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import mean, stdev

from bt_ray.ablations.ablate import Row
from bt_ray.ablations.result import Result
from bt_ray.comparison.contrast import Contrast
from bt_ray.comparison.outcome import Outcome, names_of
from bt_ray.comparison.published import HEAD
from bt_ray.comparison.study import LABEL_PERCENT

_FEW = f"linear_{LABEL_PERCENT:g}pct"
SCORES = {
    "knn_top1": "kNN top-1",
    "linear_top1": "linear top-1",
    "linear_top5": "linear top-5",
    f"{_FEW}_top1": f"linear, {LABEL_PERCENT:g} % of labels",
    "rankme": "RankMe",
}
"""What is shown of the scores, by their names."""
COMPARED = ("knn_top1", "linear_top1", f"{_FEW}_top1")
"""Scores whose differences from the first method are shown."""
NOTHING = "–"
CLAIMS_NOTHING = "claims nothing"

_COSTS: dict[str, tuple[Callable[[Result], float | None], str]] = {
    "seconds a step": (lambda result: result.seconds_a_step, ".3f"),
    "images/s": (lambda result: result.images_per_s, ",.0f"),
    "peak memory, MiB": (lambda result: result.peak_memory_mb, ",.0f"),
    "minutes a run": (lambda result: result.seconds / 60, ".1f"),
}


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table: its title, its head, and its rows, whose first cell is a method's name."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(outcome: Outcome) -> list[Table]:
    """Scores, differences if there are several methods, costs, published scores."""
    found = [scores_table(outcome)]
    if len(outcome.methods) > 1 and names_of(outcome.methods, COMPARED):
        found.append(differences_table(outcome))
    return [*found, costs_table(outcome), published_table(outcome)]


def scores_table(outcome: Outcome) -> Table:
    """Mean ± standard deviation over seeds, in per cent; the untrained encoder is the last row."""
    names = names_of(outcome.rows, list(SCORES))
    rows = [
        (
            row.case.label,
            _chosen(outcome, row),
            *(_score(row, name) for name in names),
            outcome.state(row) or (CLAIMS_NOTHING if outcome.claims_nothing(row) else ""),
        )
        for row in outcome.methods
    ]
    if (untrained := outcome.untrained) is not None:
        last = (untrained.case.label, "", *(_score(untrained, name) for name in names), "")
        rows.append(last)
    head = ("method", "weight rate", *(SCORES[name] for name in names), "")
    return Table(title="Scores", head=head, rows=tuple(rows))


def differences_table(outcome: Outcome) -> Table:
    """Points above the first method, paired by seed, and p of a paired t-test."""
    first, *others = outcome.methods
    names = names_of([first, *others], COMPARED)
    return Table(
        title=f"Differences from {first.case.label}",
        head=("method", *(word for name in names for word in (SCORES[name], "p"))),
        rows=tuple(
            (
                row.case.label,
                *(word for name in names for word in _difference(outcome.contrast(row, name))),
            )
            for row in others
        ),
    )


def costs_table(outcome: Outcome) -> Table:
    """Speed of training, memory and time of the runs."""
    return Table(
        title="Costs",
        head=("method", *_COSTS),
        rows=tuple(
            (
                row.case.label,
                *(_spread(_values(row, value), form) for value, form in _COSTS.values()),
            )
            for row in outcome.methods
        ),
    )


def published_table(outcome: Outcome) -> Table:
    """The paper's Tables 1 to 3, in per cent, and our linear scores beside them."""
    ours = names_of(outcome.methods, ("linear_top1", f"{_FEW}_top1"))
    return Table(
        title="What the paper publishes",
        head=("method", *(f"ours: {SCORES[name]}" for name in ours), *HEAD.values()),
        rows=tuple(
            (
                row.case.label,
                *(_score(row, name) for name in ours),
                *(
                    NOTHING if value is None else f"{value:.1f}"
                    for value in asdict(outcome.published_of(row)).values()
                ),
            )
            for row in outcome.methods
        ),
    )


def costs_of(row: Row) -> dict[str, list[float]]:
    """Every run's costs, by what they are."""
    return {name: _values(row, value) for name, (value, _) in _COSTS.items()}


def _values(row: Row, value: Callable[[Result], float | None]) -> list[float]:
    found = (value(result) for result in row.results if not result.failure)
    return [number for number in found if number is not None]


def _chosen(outcome: Outcome, row: Row) -> str:
    """The rate that a method was trained at, and whether a better one may lie beyond."""
    if row.case.candidates and not row.searched:
        return NOTHING
    settings = outcome.settings_of(row)
    return f"{settings.optimizer.rate:g}{' (edge)' if outcome.is_at_edge(row) else ''}"


def _score(row: Row, name: str) -> str:
    scale = 1 if name == "rankme" else 100
    return _spread([scale * score for score in row.scores(name)], ".1f")


def _difference(found: Contrast | None) -> tuple[str, str]:
    """Mean ± standard deviation of the differences in points, and p."""
    if found is None:
        return NOTHING, NOTHING
    spread = "" if found.spread is None else f" ± {100 * found.spread:.1f}"
    p = NOTHING if found.p is None else f"{found.p:.2g}{' (weak)' if found.is_weak else ''}"
    return f"{100 * found.difference:+.1f}{spread}", p


def _spread(values: Sequence[float], form: str) -> str:
    """Mean ± standard deviation, the latter of two values or more."""
    if not values:
        return NOTHING
    spread = f" ± {stdev(values):{form}}" if len(values) > 1 else ""
    return f"{mean(values):{form}}{spread}"
