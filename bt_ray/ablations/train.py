"""Runs of ablations: each trained and scored once, some at a time, in processes of their own."""

import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from bt_ray.ablations.result import Result, keep_result, key_of, plain_settings, read_result
from bt_ray.ablations.score import LinearProtocol, is_labelled, score_encoder
from bt_ray.checkpoints.checkpoint import last_checkpoint
from bt_ray.config import Settings
from bt_ray.cpu.count import available_cpus
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.errors import NonFiniteLossError, RunFailedError
from bt_ray.storage.working_copy import folder_of
from bt_ray.tracking.mlflow import MlflowRun
from bt_ray.tracking.revision import git_revision
from bt_ray.training.launch import pretrain

RESULTS = "results"
"""Folder of the results of all ablations, one file a run."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """One run to be trained and scored; `settings` name shards."""

    settings: Settings
    linear: LinearProtocol | None
    """How the linear classifier is fitted; none: kNN alone."""

    @property
    def key(self) -> str:
        """What names its result."""
        return key_of(self.settings, f"knn and {self.linear} linear" if self.linear else "knn")


def train_all(
    orders: Iterable[Order],
    folder: Path,
    *,
    at_once: int,
    parent: MlflowRun | None = None,
    prepare_process: Callable[[], None] | None = None,
) -> Iterator[tuple[Result, bool]]:
    """The results of all orders, as they come, and whether they are new or were in `folder`.

    Args:
      at_once: runs at a time, if they are made without Ray; those on a cluster share it one
        after the other.
      parent: MLflow run that the new ones belong to.
      prepare_process: called first in each process.
    Raises: RunFailedError if a process died: the results that were there are kept.
    """
    missing: dict[str, Order] = {}
    for order in orders:
        result = read_result(folder, order.key, order.settings)
        if result is not None:
            yield result, False
        else:
            missing[order.key] = order
    alone = [order for order in missing.values() if order.settings.scaling.min_workers > 0]
    for order in alone:
        yield train_one(order, folder, parent), True
    local = [order for order in missing.values() if order.settings.scaling.min_workers == 0]
    if not local:
        return
    threads = max(1, available_cpus() // at_once)
    pool = ProcessPoolExecutor(
        min(at_once, len(local)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(threads, prepare_process),
    )
    futures: list[Future[Result]] = []
    try:
        futures = [pool.submit(train_one, order, folder, parent) for order in local]
        for future in as_completed(futures):
            yield future.result(), True
    except BrokenProcessPool as broken:
        raise RunFailedError(
            "A process died in the middle of its run, perhaps for want of memory; the same "
            "command continues, with a lower --at-once if need be."
        ) from broken
    finally:
        for future in futures:
            future.cancel()
        pool.shutdown()


def _begin(threads: int, prepare_process: Callable[[], None] | None) -> None:
    torch.set_num_threads(threads)
    if prepare_process is not None:
        prepare_process()


def train_one(order: Order, folder: Path, parent: MlflowRun | None) -> Result:
    """The result of one order, kept in `folder`; a loss that is not finite is one, too.

    Raises: what `pretrain` does for anything else.
    """
    key, began = order.key, time.monotonic()
    settings = replace(order.settings, name=f"{order.settings.name}-{key}")
    scores: dict[str, float] = {}
    failure = None
    try:
        summary = pretrain(settings, register=False, parent=parent)
        scores = {name: value for name, value in summary.scores.items() if value is not None}
        checkpoint, _ = last_checkpoint(folder_of(settings.storage) / settings.name)
        if is_labelled(settings) and checkpoint is not None:
            scores |= score_encoder(checkpoint, settings, order.linear)
    except NonFiniteLossError as diverged:
        failure = str(diverged)
    result = Result(
        key=key,
        settings=plain_settings(settings),
        scores={name: round(value, 5) for name, value in scores.items()},
        failure=failure,
        num_images=ShardSet.open(settings.data.train).manifest.num_rows,
        seconds=round(time.monotonic() - began, 1),
        revision=git_revision(),
    )
    keep_result(result, folder)
    return result
