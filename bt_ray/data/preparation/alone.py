"""Who writes a folder of shards below a storage that several runs share, and what nobody needs."""

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import filelock

from bt_ray.data.location import MANIFEST
from bt_ray.data.lock import held
from bt_ray.data.preparation.claim import REJECTED, UNFINISHED
from bt_ray.data.sources import Source

_log = logging.getLogger(__name__)


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
def sole_writer(root: Path, source: Source) -> Iterator[None]:
    """Holds the shards' folder, once nobody else does; the lock goes with the process.

    Its file stays: another process may wait for it.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(held(_lock_of(root), timeout_s=0))
        except filelock.Timeout:
            _log.warning("Waiting for another process that prepares %s in %s.", source.name, root)
            stack.enter_context(held(_lock_of(root)))
        yield
