"""Who writes a folder of shards below a storage that several runs share, and what nobody needs."""

import json
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import filelock

from bt_ray.data.location import MANIFEST
from bt_ray.data.lock import held
from bt_ray.data.preparation.claim import REJECTED, UNFINISHED
from bt_ray.data.sources import Source
from bt_ray.errors import LaunchError
from bt_ray.storage.claim import claimed
from bt_ray.storage.working_copy import is_far

_log = logging.getLogger(__name__)
_LOOK_EVERY_S = 10.0


def is_json(text: bytes) -> bool:
    """Whether a file's content is JSON, and so was not emptied or cut short."""
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def remove_mended(root: Path, source: Source) -> None:
    """Removes what was kept of these images as they were before bad ones of them were mended."""
    for claim in root.parent.glob(f"*/{UNFINISHED}/claim.json"):
        other = claim.parent.parent
        if other == root or (other / MANIFEST).exists() or not (other / REJECTED).exists():
            continue
        text = claim.read_bytes()
        if not is_json(text) or json.loads(text).get("source") != source.name:
            continue
        try:
            with held(_lock_of(other), timeout_s=0):
                shutil.rmtree(other, ignore_errors=True)
        except filelock.Timeout:
            continue


def _lock_of(root: Path) -> Path:
    return root.parent / f".{root.name}.lock"


@contextmanager
def sole_writer(root: str, source: Source) -> Iterator[None]:
    """Holds the shards' folder, once nobody else does; that ends with the process.

    A lock's file stays: another process may wait for it.
    """
    with ExitStack() as stack:
        if is_far(root):
            stack.enter_context(_far_claim(root, source))
            yield
            return
        folder = Path(root)
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            stack.enter_context(held(_lock_of(folder), timeout_s=0))
        except filelock.Timeout:
            _log.warning("Waiting for another process that prepares %s in %s.", source.name, root)
            stack.enter_context(held(_lock_of(folder)))
        yield


@contextmanager
def _far_claim(root: str, source: Source) -> Iterator[None]:
    """A claim beside the shards' folder, once nobody else has it."""
    place, mark, options = root.partition("?")
    folder, _, name = place.rpartition("/")
    beside = f"{folder}/claims/{name}{mark}{options}"
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(claimed(beside, "preparation"))
                break
            except LaunchError:
                _log.warning("Waiting for another process that prepares %s.", source.name)
                time.sleep(_LOOK_EVERY_S)
        yield
