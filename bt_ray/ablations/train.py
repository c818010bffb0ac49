"""Runs of ablations: each trained and scored once, some at a time, in processes of their own."""

import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from bt_ray.ablations import lifeline
from bt_ray.ablations.measures import Measures, curves_of, peak_memory_mb
from bt_ray.ablations.result import Result, keep_result, key_of, plain_settings, read_result
from bt_ray.ablations.score import LinearProtocol, is_labelled, score_encoder
from bt_ray.checkpoints.checkpoint import last_checkpoint
from bt_ray.checkpoints.start import untrained
from bt_ray.config import Settings
from bt_ray.cpu.count import available_cpus
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.errors import BtRayError, NonFiniteLossError, RunFailedError, RunStoppedError
from bt_ray.model.encoder import build_encoder
from bt_ray.model.pretrained import Pretrained, load_folder
from bt_ray.storage.names import folder_of
from bt_ray.tracking.mlflow import MlflowRun
from bt_ray.tracking.revision import git_revision
from bt_ray.tracking.tracker import METRICS, read_history
from bt_ray.training.launch import pretrain

RESULTS = "results"
"""Folder of the results of all ablations, one file a run."""
_DIED = (
    "A process died in the middle of its run, perhaps for want of memory; the same command "
    "continues, with a lower --at-once if need be."
)


@dataclass(frozen=True, kw_only=True)
class Order:
    """One run to be trained and scored; `settings` name shards."""

    settings: Settings
    linear: LinearProtocol | None
    """How the linear classifier is fitted; none: kNN alone."""
    label_percent: float | None = None
    """Part of the labels that one more linear classifier knows; none: there is none."""
    trains: bool = True
    """Whether an encoder is trained; else it is scored with its first weights."""

    @property
    def key(self) -> str:
        """What names its result."""
        scoring = f"knn and {self.linear} linear" if self.linear else "knn"
        if self.label_percent is not None:
            scoring += f" and linear of {self.label_percent:g} % of the labels"
        return key_of(self.settings, scoring if self.trains else f"{scoring}, untrained")


@dataclass(frozen=True, kw_only=True)
class Making:
    """How runs are made."""

    at_once: int = 1
    """Runs at a time, if they are made without Ray; those on a cluster share it one after the
    other."""
    parent: MlflowRun | None = None
    """MLflow run that the new ones belong to."""
    prepare_process: Callable[[], None] | None = None
    """Called first in each process."""
    may_start: Callable[[], bool] = lambda: True
    """Asked before each run; those that may not start are left out."""
    apart: bool = False
    """Whether each run has a process to itself. What goes wrong in it is then its result, which is
    not kept, so that the next call makes it again."""


def train_all(
    orders: Iterable[Order], folder: Path, making: Making
) -> Generator[tuple[Result, bool], None, None]:
    """The results of all orders, as they come, and whether they are new or were in `folder`.

    Once it is closed no run is going any more.

    Raises: RunFailedError if a process died that was not a run's own: the results that were there
      are kept.
    """
    missing: dict[str, Order] = {}
    for order in orders:
        result = read_result(folder, order.key, order.settings)
        if result is not None:
            yield result, False
        else:
            missing[order.key] = order
    for order in missing.values():
        if order.settings.scaling.min_workers > 0 and making.may_start():
            try:
                yield train_one(order, folder, making.parent), True
            except (BtRayError, RuntimeError) as error:
                yield _failed(order, error, making), True
    local = [order for order in missing.values() if order.settings.scaling.min_workers == 0]
    if local:
        yield from _train_here(local, folder, making)


def _train_here(
    orders: list[Order], folder: Path, making: Making
) -> Generator[tuple[Result, bool], None, None]:
    """The results of orders without Ray, as they come; each is new.

    However this ends, what is still going stops at its checkpoint and its process leaves.
    """
    at_once = min(making.at_once, len(orders))
    their_end, own_end = multiprocessing.Pipe(duplex=False)
    shared = None if making.apart else _processes(at_once, making, their_end)
    waiting, going = deque(orders), dict[Future[Result], Order]()
    try:
        while waiting or going:
            while waiting and len(going) < at_once and making.may_start():
                order = waiting.popleft()
                pool = shared or _processes(1, making, their_end)
                going[pool.submit(train_one, order, folder, making.parent)] = order
                if pool is not shared:
                    pool.shutdown(wait=False)
            if not going:
                return
            for future in wait(going, return_when=FIRST_COMPLETED).done:
                order = going.pop(future)
                try:
                    yield future.result(), True
                except (BtRayError, RuntimeError) as error:
                    yield _failed(order, error, making), True
    finally:
        if going:
            own_end.close()
            wait(going)
        if shared is not None:
            shared.shutdown()
        own_end.close()
        their_end.close()


def _processes(count: int, making: Making, their_end: Connection) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        count,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(max(1, available_cpus() // making.at_once), making.prepare_process, their_end),
    )


def _begin(threads: int, prepare_process: Callable[[], None] | None, their_end: Connection) -> None:
    lifeline.hold(their_end)
    torch.set_num_threads(threads)
    if prepare_process is not None:
        prepare_process()


def _failed(order: Order, error: BtRayError | RuntimeError, making: Making) -> Result:
    """The result of a run that ended by this error.

    Raises: the error, if it is everybody's; RunFailedError in place of a process's death.
    """
    if not making.apart or isinstance(error, RunStoppedError):
        if isinstance(error, BrokenProcessPool):
            raise RunFailedError(_DIED) from error
        raise error
    words = _DIED if isinstance(error, BrokenProcessPool) else str(error).strip()
    return _result(order, Measures(), f"{type(error).__name__}: {words}", 0.0)


def train_one(order: Order, folder: Path, parent: MlflowRun | None) -> Result:
    """The result of one order, kept in `folder`; a loss that is not finite is one, too.

    Raises: what `pretrain` does for anything else.
    """
    began = time.monotonic()
    measures, failure = Measures(), None
    try:
        measures = _train_and_score(order, parent) if order.trains else _score_untrained(order)
    except NonFiniteLossError as diverged:
        failure = str(diverged)
    result = _result(order, measures, failure, round(time.monotonic() - began, 1))
    keep_result(result, folder)
    return result


def _train_and_score(order: Order, parent: MlflowRun | None) -> Measures:
    settings = replace(order.settings, name=f"{order.settings.name}-{order.key}")
    with lifeline.going() as stop:
        summary = pretrain(settings, register=False, parent=parent, stop=stop)
    run_folder = folder_of(settings.storage) / settings.name
    history = read_history(run_folder / METRICS)
    memory = peak_memory_mb(settings, history)  # before scoring, which takes some itself
    scores = {name: value for name, value in summary.scores.items() if value is not None}
    checkpoint, _ = last_checkpoint(run_folder)
    if is_labelled(settings) and checkpoint is not None:
        scores |= score_encoder(
            load_folder(checkpoint), settings, order.linear, order.label_percent
        )
    return Measures(
        scores=scores,
        images_per_s=summary.images_per_s,
        peak_memory_mb=memory,
        curves=curves_of(history, summary.total_steps / settings.schedule.epochs),
    )


def _score_untrained(order: Order) -> Measures:
    """Scores of the weights that the seed draws, which are any method's first ones."""
    settings = order.settings
    if not is_labelled(settings):
        return Measures()
    encoder = untrained(Pretrained(build_encoder(settings), settings))
    return Measures(scores=score_encoder(encoder, settings, order.linear, order.label_percent))


def _result(order: Order, measures: Measures, failure: str | None, seconds: float) -> Result:
    return Result(
        key=order.key,
        settings=plain_settings(order.settings),
        scores={name: round(value, 5) for name, value in measures.scores.items()},
        failure=failure,
        num_images=ShardSet.open(order.settings.data.train).manifest.num_rows,
        seconds=seconds,
        revision=git_revision(),
        images_per_s=measures.images_per_s,
        peak_memory_mb=measures.peak_memory_mb,
        curves=measures.curves,
    )
