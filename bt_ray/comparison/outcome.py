"""What a comparison came to: its rows, and what may be said of each of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from bt_ray.ablations.ablate import Plan, Row
from bt_ray.ablations.result import Result
from bt_ray.ablations.study import Study
from bt_ray.comparison.contrast import Contrast, by_seed, contrast
from bt_ray.comparison.published import Published, published_of
from bt_ray.comparison.study import UNTRAINED
from bt_ray.config import Settings, override

MARGIN = 0.05
"""A share of kNN's right answers: by less than that above the untrained encoder, a method has not
learnt enough for its place among the others to mean anything."""
_JUDGED_BY = "knn_top1"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The rows of a comparison, and how they were made."""

    study: Study
    settings: Settings
    plan: Plan
    multiples: tuple[float, ...]
    """Of the preset's rate of weights, that were tried."""
    rows: tuple[Row, ...]

    @property
    def methods(self) -> list[Row]:
        """The rows of methods, the first one that of what the others are compared with."""
        return [row for row in self.rows if row.case.trains]

    @property
    def untrained(self) -> Row | None:
        """The row of the untrained encoder, if it was scored."""
        return next((row for row in self.rows if row.case == UNTRAINED and row.results), None)

    def settings_of(self, row: Row) -> Settings:
        """A method's own settings, with the rate that was chosen."""
        return override(self.settings, {**row.case.changes, **row.chosen})

    def published_of(self, row: Row) -> Published:
        """What the paper's tables have of a row's method."""
        return published_of(self.settings_of(row))

    def contrast(self, row: Row, name: str) -> Contrast | None:
        """A method's scores beside the first one's, seed by seed; none of the first itself."""
        first = self.methods[0]
        return None if row is first else contrast(by_seed(row, name), by_seed(first, name))

    def lead(self, row: Row) -> float | None:
        """By how much kNN's right answers exceed the untrained encoder's on average."""
        untrained = [] if self.untrained is None else self.untrained.scores(_JUDGED_BY)
        scores = row.scores(_JUDGED_BY)
        return mean(scores) - mean(untrained) if scores and untrained else None

    def claims_nothing(self, row: Row) -> bool:
        """Whether a method's encoder is hardly better than an untrained one."""
        lead = self.lead(row)
        return lead is not None and lead < MARGIN

    def is_at_edge(self, row: Row) -> bool:
        """Whether the best rate is the first or last that was tried: a better may lie beyond."""
        candidates = [next(iter(changes.values())) for changes in row.case.candidates]
        chosen = next(iter(row.chosen.values()), None)
        return len(candidates) > 1 and chosen in (min(candidates), max(candidates))

    def state(self, row: Row) -> str:
        """What a row without scores is: searched for, waiting or failed; else nothing."""
        if any(result.scores for result in row.results):
            return ""
        if row.results:
            return "failed"
        return "not searched yet" if row.case.candidates and not row.searched else "not trained yet"

    @property
    def num_missing(self) -> int:
        """Runs that were not started for want of time."""
        return sum(
            (len(row.case.candidates) if not row.searched else 0)
            + self.plan.seeds - len(row.results)
            for row in self.rows
        )  # fmt: skip

    @property
    def failures(self) -> list[tuple[Row, Result, bool]]:
        """Each failed run with its row, and whether it was one of the search."""
        return [
            (row, result, is_search)
            for row in self.rows
            for results, is_search in ((row.searched, True), (row.results, False))
            for result in results
            if result.failure
        ]


def names_of(rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    """Those of the names that some row has scores of."""
    return [name for name in names if any(row.scores(name) for row in rows)]
