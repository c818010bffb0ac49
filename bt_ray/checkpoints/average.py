"""The averaged weights in a checkpoint, where they are wanted in place of the encoder's own."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from bt_ray.checkpoints.manifest import Manifest, write_manifest
from bt_ray.config import SETTINGS_FILE
from bt_ray.errors import CheckpointError
from bt_ray.model.average import AVERAGE
from bt_ray.model.weights import ENCODER
from bt_ray.storage.names import is_far
from bt_ray.storage.working_copy import holds_run

Weights = Literal["plain", "average"]
"""Of a checkpoint: those that were trained, or their moving average."""


@contextmanager
def averaged_copy(checkpoint: Path) -> Iterator[Path]:
    """A folder, for a while, like that of a checkpoint whose encoder has the averaged weights.

    It holds encoder, settings and manifest.

    Raises: CheckpointError if the checkpoint has no averaged weights, or is damaged.
    """
    manifest = require_average(checkpoint)
    manifest.verify((AVERAGE, SETTINGS_FILE))
    with tempfile.TemporaryDirectory(prefix="average-") as name:
        folder = Path(name)
        sums = {}
        for source, copy in ((AVERAGE, ENCODER), (SETTINGS_FILE, SETTINGS_FILE)):
            shutil.copyfile(checkpoint / source, folder / copy)
            sums[copy] = manifest.files[source].sha256
        write_manifest(folder, manifest.step or 0, sums)
        yield folder


def require_average(checkpoint: Path) -> Manifest:
    """The manifest of a checkpoint with averaged weights. Raises: CheckpointError without them."""
    manifest = Manifest.read(checkpoint)
    if AVERAGE not in manifest.files:
        raise CheckpointError(
            f"Checkpoint {checkpoint} keeps no averaged weights: the run that wrote it had no "
            "--training.average-decay. Take its plain ones."
        )
    return manifest


def without_average(reference: str) -> tuple[str, bool]:
    """The reference without `/average` at its end, and whether that stood there.

    A run that is called so is a run.
    """
    place, mark, options = reference.partition("?") if is_far(reference) else (reference, "", "")
    if not place.endswith("/average") or holds_run(reference):
        return reference, False
    return f"{place.removesuffix('/average')}{mark}{options}", True
