"""An ablation from beginning to end: searches, runs over seeds, what they came to."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from bt_ray.ablations.progress import ResultCollector, StudyProgress
from bt_ray.ablations.result import Result
from bt_ray.ablations.score import LinearProtocol, is_labelled
from bt_ray.ablations.study import Case, Changes, Study
from bt_ray.ablations.train import RESULTS, Making, Order, train_all
from bt_ray.config import Settings, override
from bt_ray.data.preparation.prepare import prepare_data, write_source
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.shards.subset import subset
from bt_ray.errors import SettingsError
from bt_ray.storage.names import folder_of
from bt_ray.tracking.mlflow import ending
from bt_ray.tracking.mlflow_record import run_of_folder
from bt_ray.training.arithmetic import choose_precision
from bt_ray.training.cluster import connect
from bt_ray.training.run_folder import locate_storage, open_storage
from bt_ray.training.validation import draw_rows
from bt_ray.tuning.split import hold_out

Labelled = tuple[str, Order]
"""A run, and the label of its case."""

_KNN, _RANK = "knn_top1", "rankme"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How an ablation is made."""

    seeds: int = 2
    """Runs of each case, from the settings' seed upwards."""
    images: int | None = None
    """Training images that are used, drawn class by class; none: all."""
    linear: LinearProtocol = "fast"
    """How the linear classifier is fitted."""
    at_once: int = 1
    """Runs at a time, if they are made without Ray."""
    label_percent: float | None = None
    """Part of the labels that one more linear classifier knows; none: there is none."""
    max_hours: float | None = None
    """Hours after which no further run is started; none: no limit."""
    apart: bool = False
    """Whether each run has a process to itself, and its failure is its result alone."""

    def __post_init__(self) -> None:
        if self.max_hours is not None and not (
            math.isfinite(self.max_hours) and self.max_hours > 0
        ):
            raise SettingsError(f"--max-hours {self.max_hours:g} must be a finite number above 0.")
        for name in ("seeds", "images", "at_once"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingsError(f"--{name.replace('_', '-')} {value} must be at least 1.")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A case and its results."""

    case: Case
    chosen: Changes
    """Of the case's candidates, the best on held-out images; empty where none were searched."""
    searched: tuple[Result, ...]
    """One of each candidate, scored on held-out images; empty unless all are there."""
    results: tuple[Result, ...]
    """One of each seed, but for those that there was no time for."""

    def scores(self, name: str) -> list[float]:
        """This score of every seed that has it."""
        return [result.scores[name] for result in self.results if name in result.scores]


def ablate(
    study: Study,
    settings: Settings,
    plan: Plan,
    folder: Path,
    *,
    on_progress: Callable[[StudyProgress], None] = lambda progress: None,
    prepare_process: Callable[[], None] | None = None,
) -> tuple[Row, ...]:
    """Every case's results; those whose files are in `folder` are not made again.

    Args:
      prepare_process: called first in each process that runs are made in.
    Raises: SettingsError; DataError; RunFailedError and whatever else `pretrain` raises. What
      was finished is kept, and the same call continues.
    """
    study.check(settings)
    stops_at = math.inf if plan.max_hours is None else time.monotonic() + 3600 * plan.max_hours
    settings = locate_storage(settings)
    open_storage(settings)
    settings = take_images(prepare_data(settings), plan.images)
    if settings.scaling.min_workers > 0:
        connect(settings)
    # Results are those of one arithmetic, which their keys name.
    settings = choose_precision(settings, folder_of(settings.storage) / "ablations")
    searches = _searches(study, settings)
    collector = ResultCollector(len(searches) + len(study.cases) * plan.seeds, on_progress)
    name = f"{study.name}-{settings.name}"
    own_folder = folder_of(settings.storage) / "ablations" / name
    own_folder.mkdir(parents=True, exist_ok=True)
    parent, _ = run_of_folder(own_folder, replace(settings, name=name))
    with ending(parent):
        making = Making(
            at_once=plan.at_once, parent=parent, prepare_process=prepare_process,
            may_start=lambda: time.monotonic() < stops_at, apart=plan.apart,
        )  # fmt: skip

        def train(runs: Sequence[Labelled]) -> dict[str, list[Result]]:
            orders = [order for _, order in runs]
            with closing(train_all(orders, folder / RESULTS, making)) as results:
                found = collector.collect({order.key: label for label, order in runs}, results)
            by_label: dict[str, list[Result]] = {case.label: [] for case in study.cases}
            for label, order in runs:
                if order.key in found:
                    by_label[label].append(found[order.key])
            return by_label

        found = train(searches)
        whole = [case for case in study.cases if len(found[case.label]) == len(case.candidates)]
        searched = {case.label: found[case.label] if case in whole else [] for case in study.cases}
        chosen = {case.label: _best(case, searched[case.label]) for case in study.cases}
        trained = train(_orders(whole, settings, plan, chosen))
    return tuple(
        Row(
            case=case,
            chosen=chosen[case.label],
            searched=tuple(searched[case.label]),
            results=tuple(trained[case.label]),
        )
        for case in study.cases
    )


def take_images(settings: Settings, images: int | None) -> Settings:
    """The settings with so many of their training images, equally many of each class.

    Raises: SettingsError if there are fewer.
    """
    shards = ShardSet.open(settings.data.train)
    num_rows = shards.manifest.num_rows
    if images is None or images == num_rows:
        return settings
    if images > num_rows:
        raise SettingsError(f"--images {images}: there are {num_rows} training images.")
    rows = draw_rows(shards, share=images / num_rows, seed=0)
    train = write_source(
        subset(shards, rows, f"{images} training images"),
        settings.storage,
        rows_per_row_group=settings.data.rows_per_row_group,
        pixels=settings.data.pixels,
    )
    return replace(settings, data=replace(settings.data, train=train))


def _searches(study: Study, settings: Settings) -> list[Labelled]:
    """A run of each candidate of each case, on part of the training images, and its case."""
    if not any(case.candidates for case in study.cases):
        return []
    return [
        (case.label, Order(settings=override(split, {**case.changes, **candidate}), linear=None))
        for split in [hold_out(settings)]
        for case in study.cases
        for candidate in case.candidates
    ]


def _best(case: Case, results: Sequence[Result]) -> Changes:
    """The candidate of the best score on held-out images: kNN, or RankMe without labels."""
    if not results:
        return {}
    scores = [result.scores.get(_KNN, result.scores.get(_RANK, 0.0)) for result in results]
    return case.candidates[scores.index(max(scores))]


def _orders(
    cases: Sequence[Case], settings: Settings, plan: Plan, chosen: dict[str, Changes]
) -> list[Labelled]:
    """The cases' runs, seed by seed, so that a first picture of all is there early."""
    first = settings.training.seed
    labelled = is_labelled(settings)
    return [
        (
            case.label,
            Order(
                settings=override(
                    settings, {**case.changes, **chosen[case.label], "training.seed": seed}
                ),
                linear=plan.linear if labelled else None,
                label_percent=plan.label_percent if labelled else None,
                trains=case.trains,
            ),
        )
        for seed in range(first, first + plan.seeds)
        for case in cases
    ]
