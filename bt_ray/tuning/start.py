"""One start of a search: Ray Tune and Optuna, to the last trial or a signal."""

import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType

import optuna
from ray import tune

from bt_ray.config import Settings
from bt_ray.training.fit import beside
from bt_ray.tuning.order import SweepOrder
from bt_ray.tuning.progress import Board, Progress
from bt_ray.tuning.room import trial_resources
from bt_ray.tuning.search import HalvingStops, StudySearch
from bt_ray.tuning.space import Params, SearchSpace
from bt_ray.tuning.study import (
    answering_study,
    begin_again,
    build_sampler,
    enqueue,
    number_of,
    open_study_storage,
    reconcile,
    replay,
)
from bt_ray.tuning.trial import TrialOrder, run_trial
from bt_ray.tuning.watch import Watch

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial may end before it has a score
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}


class Start:
    """One start of the search: until all trials have ended, or a signal asks for a stop."""

    def __init__(
        self,
        space: SearchSpace,
        order: SweepOrder,
        trial_order: TrialOrder,
        split: Settings,
        at_once: int,
    ) -> None:
        self._space, self._order, self._trial_order = space, order, trial_order
        self._split, self._at_once = split, at_once
        self._epochs = split.schedule.epochs
        self._signal: int | None = None

    def run(
        self,
        points: tuple[Params, ...],
        on_progress: Callable[[Progress], None],
    ) -> int | None:
        """Runs the trials that are left; the signal that ended this early, if one did."""
        url, records = self._trial_order.study, self._trial_order.records
        total = self._order.total(len(points))
        with answering_study(url):
            search = self._open_search(total)
            search.begun = reconcile(search.study, self._space, records)
            if self._order.retry_failed:
                search.begun = begin_again(search.study, self._space, records)
                left = len(search.begun)
            else:
                enqueue(search.study, points)
                left = len(search.begun) + max(0, total - _count_begun(search.study))
            scheduler = self._scheduler(search.study)
        if left == 0:
            return None
        ended = list(records)
        board = Board(
            ended, total=max(total, len(ended) + left), epochs=self._epochs, at_once=self._at_once
        )
        watch = Watch(self._trial_order, search, board, on_progress)
        place = Path(self._trial_order.folder) / "tune"  # Ray's own notes; ours are elsewhere
        try:
            with self._listening(search), answering_study(url):
                beside(lambda: self._tuner(search, scheduler, watch, left, place).fit())
        finally:
            shutil.rmtree(place, ignore_errors=True)
        return self._signal

    def _open_search(self, trials: int) -> StudySearch:
        storage = open_study_storage(self._trial_order.study)
        name = self._trial_order.name
        known = optuna.get_all_study_names(storage)
        begun = (
            len(optuna.load_study(study_name=name, storage=storage).trials) if name in known else 0
        )
        sampler = build_sampler(
            self._order.search,
            seed=self._split.training.seed,
            begun=begun,
            trials=trials,
        )
        return StudySearch(self._space, name, storage, sampler, self._trial_order)

    def _scheduler(self, study: optuna.Study) -> HalvingStops | None:
        if self._order.pruning == "none":
            return None
        scheduler = HalvingStops(
            self._trial_order,
            epochs=self._epochs,
            grace_epochs=self._order.grace_epochs or self._epochs / 9,
            reduction=self._order.reduction,
        )
        replay(study, scheduler.recall)
        return scheduler

    def _tuner(
        self,
        search: StudySearch,
        scheduler: HalvingStops | None,
        watch: Watch,
        left: int,
        place: Path,
    ) -> tune.Tuner:
        os.environ.update(_QUIET)
        logging.getLogger("ray.tune").setLevel(logging.ERROR)  # it misses files that nobody reads
        return tune.Tuner(
            tune.with_resources(
                partial(run_trial, order=self._trial_order), trial_resources(self._split)
            ),
            tune_config=tune.TuneConfig(
                search_alg=search,
                scheduler=scheduler,
                num_samples=left,
                max_concurrent_trials=self._at_once,
                reuse_actors=True,  # a process that has imported torch serves for the next trial
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=tune.RunConfig(
                name=f"{time.time_ns()}",
                storage_path=str(place),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=self._order.restarts),
                callbacks=[watch],
            ),
        )

    @contextmanager
    def _listening(self, search: StudySearch) -> Iterator[None]:
        """At SIGINT or SIGTERM no trial begins, and those that run are asked to stop.

        A second signal leaves at once.
        """

        def handle(number: int, _: FrameType | None) -> None:
            if self._signal is not None:
                raise SystemExit(128 + number)
            self._signal = number
            search.stopping = True

        in_main_thread = threading.current_thread() is threading.main_thread()
        before = {n: signal.signal(n, handle) for n in _SIGNALS if in_main_thread}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _count_begun(study: optuna.Study) -> int:
    """Trials of the sweep that have begun; one that is repeated counts once."""
    begun = (trial for trial in study.get_trials(deepcopy=False) if not _waits(trial))
    return len({number_of(trial) for trial in begun})


def _waits(trial: optuna.trial.FrozenTrial) -> bool:
    return trial.state == optuna.trial.TrialState.WAITING
