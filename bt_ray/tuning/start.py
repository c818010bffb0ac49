"""One start of a search: Ray Tune runs the trials that Optuna proposes, or a signal ends it."""

import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

from ray import tune

from bt_ray.config import Settings
from bt_ray.training.fit import beside
from bt_ray.tuning.callback import TrialCallback
from bt_ray.tuning.claim import Claim
from bt_ray.tuning.fitting import find_place
from bt_ray.tuning.order import SweepOrder
from bt_ray.tuning.progress import Board, SweepProgress
from bt_ray.tuning.proposing import build_pruner, build_sampler
from bt_ray.tuning.room import Room, trial_resources
from bt_ray.tuning.search import StudySearch
from bt_ray.tuning.space import Params, SearchSpace
from bt_ray.tuning.study import SweepStudy
from bt_ray.tuning.study_storage import answering_study, own_study
from bt_ray.tuning.trial import TrialOrder, run_trial
from bt_ray.tuning.wishes import RemoteWishes

_log = logging.getLogger(__name__)
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}
_PENDING = {"TUNE_MAX_PENDING_TRIALS_PG": "1000"}  # Tune's is 1: our search says how many


class Start:
    """One start of the search: until all trials have ended, or a signal asks for a stop."""

    def __init__(
        self,
        space: SearchSpace,
        order: SweepOrder,
        trial_order: TrialOrder,
        split: Settings,
        room: Room,
        claim: Claim,
    ) -> None:
        self._space, self._order, self._trial_order = space, order, trial_order
        self._split, self._room, self._claim = split, room, claim
        self._epochs = split.schedule.epochs
        self._signal: int | None = None

    def run(
        self,
        points: tuple[Params, ...],
        on_progress: Callable[[SweepProgress], None],
    ) -> int | None:
        """Runs the trials that are left.

        Returns: the number of the signal that ended this early; none if all trials have ended.
        """
        url, records = self._trial_order.study, self._trial_order.records
        total = self._order.total(len(points))
        with answering_study(url):
            study = self._open_study(total)
            study.check_space()
            begun = study.reconcile()
            if self._order.retry_failed:
                begun = study.begin_again()
                left = len(begun)
            else:
                study.enqueue(points)
                left = len(begun) + max(0, total - study.count_begun())
        if left == 0:
            return None
        ended = list(records)
        board = Board(
            ended,
            total=max(total, len(ended) + left),
            epochs=self._epochs,
            at_once=self._room.now(),
        )
        search = StudySearch(
            study, self._space, self._trial_order, begun=begun, left=left, epochs=self._epochs,
            room=self._room.now, place=find_place(self._split),
        )  # fmt: skip
        for sentence in search.foresee(points):
            _log.warning("%s", sentence)
        wishes = RemoteWishes()
        callback = TrialCallback(self._trial_order, search, board, on_progress, wishes)
        self._trial_order = replace(self._trial_order, wishes=wishes)
        place = Path(self._trial_order.folder) / "tune"  # Ray's own notes; ours are elsewhere
        try:
            with self._listening(search), answering_study(url):
                beside(self._tuner(search, callback, left, place).fit)
        finally:
            shutil.rmtree(place, ignore_errors=True)
        return self._signal

    def _open_study(self, trials: int) -> SweepStudy:
        order = self._trial_order
        study = SweepStudy(order.study, order.name, self._space, order.records)
        if order.study != own_study(self._claim.folder):  # which is no other sweep's
            study.claim(self._claim.identity, self._claim.folder)
        study.optuna.sampler = build_sampler(
            self._order.search,
            seed=self._split.training.seed,
            begun=len(study.trials()),
            trials=trials,
        )
        study.optuna.pruner = build_pruner(self._order, self._epochs)
        return study

    def _tuner(
        self,
        search: StudySearch,
        callback: TrialCallback,
        left: int,
        place: Path,
    ) -> tune.Tuner:
        os.environ.update(_QUIET | _PENDING)
        logging.getLogger("ray.tune").setLevel(logging.ERROR)  # it misses files that nobody reads
        return tune.Tuner(
            tune.with_resources(
                # It may hold passwords: Ray keeps it in memory, where a partial would be written.
                tune.with_parameters(run_trial, order=self._trial_order),
                trial_resources(self._split),
            ),
            tune_config=tune.TuneConfig(
                search_alg=search,
                num_samples=left,
                reuse_actors=True,  # a process that has imported torch serves for the next trial
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=tune.RunConfig(
                name=f"{time.time_ns()}",
                storage_path=str(place),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=self._order.restarts),
                callbacks=[callback],
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
