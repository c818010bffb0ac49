"""Checkpoints: safetensors for tensors, JSON for the rest, nothing that is unpickled.

A checkpoint is a folder. Its manifest (`checkpoints.manifest`) is written last: a folder without
one, or with one that does not fit, is not a checkpoint.
"""

import json
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import Optimizer

from bt_ray.checkpoints.draft import OPTIMIZER, SCHEMA_VERSION, STATE, draft_checkpoint
from bt_ray.checkpoints.manifest import MANIFEST, Manifest
from bt_ray.checkpoints.state import Best, TrainingState
from bt_ray.checkpoints.stored import REJECTED, bring_manifests, bring_tensors, sizes_there
from bt_ray.config import PLACES, SETTINGS_FILE, Settings, differences, from_json
from bt_ray.errors import AlteredCheckpointError, CheckpointError, NewerSchemaError
from bt_ray.model.average import AVERAGE
from bt_ray.model.weights import file_of, load_weights
from bt_ray.storage.working_copy import BEST, CHECKPOINT

_log = logging.getLogger(__name__)

M = TypeVar("M", bound=nn.Module)
Check = Callable[[Path], dict[str, Any]]

KEPT_CHECKPOINTS = 2


def save_checkpoint(folder: Path, state: TrainingState[M], settings: Settings) -> None:
    """Writes `state` into `folder`, and returns when it is written.

    Raises: RunFailedError if the disk is full or otherwise refuses.
    """
    draft_checkpoint(state, settings).write(folder)


def verify_checkpoint(folder: Path) -> dict[str, Any]:
    """The content of a checkpoint's state file, once every checksum holds.

    Raises: CheckpointError if a file is missing or altered; NewerSchemaError; RunFailedError if the
      storage fails.
    """
    bring_tensors(folder)
    manifest = Manifest.read(folder)
    manifest.verify()
    return _record(manifest)


def _glance_at(folder: Path) -> dict[str, Any]:
    """The same, of tensors by the sizes of their files alone."""
    manifest = Manifest.read(folder)
    manifest.glance(sizes_there(folder))
    return _record(manifest)


def _record(manifest: Manifest) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(manifest.content(STATE))
    if record["schema_version"] > SCHEMA_VERSION:
        raise NewerSchemaError(
            f"Checkpoint {manifest.folder} has schema {record['schema_version']}; this bt_ray "
            f"reads up to {SCHEMA_VERSION}. Use a newer bt_ray."
        )
    return record


def last_checkpoint(run_folder: Path) -> tuple[Path | None, int]:
    """The complete checkpoint of a run with the most steps, and those steps.

    One that was cut short or altered is passed over for the one before it, and a warning says so.

    Returns: (None, 0) without any, also if the writing of all that are there was cut off.
    Raises: AlteredCheckpointError if none is whole, and one was once; NewerSchemaError: to pass
      over such a one would undo another bt_ray's work; RunFailedError if the storage fails.
    """
    return _first_that_passes(verify_checkpoint, run_folder)


def newest_checkpoint(run_folder: Path) -> tuple[Path | None, int]:
    """The same without reading the tensors: none of their files is missing or was cut short.

    That suffices to tell where a run stands. Its worker verifies what it continues from
    (`checkpoints.resume`).
    """
    return _first_that_passes(_glance_at, run_folder)


def find_checkpoint(place: Path) -> Path | None:
    """The checkpoint that `place` is, or the last complete one of the run whose folder it is.

    Of a run's folder `best` it is the best one (`checkpoints.best`).

    Returns: None if there is nothing like a checkpoint.
    Raises: CheckpointError if none is whole; NewerSchemaError; RunFailedError if the storage fails.
    """
    if any((place / name).exists() for name in (MANIFEST, STATE)):
        verify_checkpoint(place)
        return place
    of_best = is_best_of_run(place)
    run_folder = place.parent if of_best else place
    found, _, faults = _search(verify_checkpoint, run_folder, of_best=of_best)
    if found is None and faults:
        raise faults[0]
    _tell(faults, found)
    return found


def _first_that_passes(check: Check, run_folder: Path) -> tuple[Path | None, int]:
    found, step, faults = _search(check, run_folder)
    altered = [fault for fault in faults if isinstance(fault, AlteredCheckpointError)]
    if found is None and altered:
        raise AlteredCheckpointError(
            f"No checkpoint in {run_folder} is whole, and a run that begins anew would write over "
            f"what can be restored. {altered[0]} To begin anew, remove the checkpoints."
        )
    _tell(faults, found)
    return found, step


def _search(
    check: Check, run_folder: Path, *, of_best: bool = False
) -> tuple[Path | None, int, list[CheckpointError]]:
    """The checkpoint with the most steps that passes, its steps, and what is wrong with others.

    Args:
      of_best: look at what was kept as the best, which a run does not continue from.
    """
    bring_manifests(run_folder)
    faults: list[CheckpointError] = [
        AlteredCheckpointError(f"Checkpoint {file.parent} was found damaged, and set aside.")
        for file in _checkpoint_files(run_folder, REJECTED, of_best)
    ]
    candidates = []
    for file in _checkpoint_files(run_folder, MANIFEST, of_best):
        try:
            candidates.append((_stated_step(file.parent), file.parent))
        except NewerSchemaError:
            raise
        except CheckpointError as error:
            faults.append(error)
    for _, folder in sorted(candidates, reverse=True):
        try:
            return folder, int(check(folder)["step"]), faults
        except NewerSchemaError:
            raise
        except CheckpointError as error:
            faults.append(error)
    return None, 0, faults


def is_best_of_run(place: Path) -> bool:
    """Whether a folder is the one in a run's with its best checkpoint, and no run called so."""
    return place.name == BEST and not (place / SETTINGS_FILE).exists()


def _checkpoint_files(run_folder: Path, name: str, of_best: bool) -> list[Path]:
    """The files of this name in a run's checkpoints, those of the last checkpoint first."""
    found = run_folder.glob(f"*/{CHECKPOINT}*/{name}")
    return sorted((f for f in found if (f.parent.parent.name == BEST) is of_best), reverse=True)


def _tell(faults: list[CheckpointError], found: Path | None) -> None:
    instead = "there is none before it" if found is None else f"{found} is taken"
    for fault in faults:
        _say_once(f"{fault} It is passed over: {instead}.")


@cache
def _say_once(sentence: str) -> None:
    """Warns, however often a process looks for the same run's checkpoint."""
    _log.warning("%s", sentence)


def _stated_step(folder: Path) -> int:
    """The steps that a checkpoint's manifest states; nothing else is read, but of older ones.

    Raises: CheckpointError, NewerSchemaError, RunFailedError.
    """
    manifest = Manifest.read(folder)
    return int(_record(manifest)["step"]) if manifest.step is None else manifest.step


def stream_digest(checkpoint: Path) -> str:
    """Of all data that a checkpoint's run was trained on, in hexadecimal digits."""
    return str(_record(Manifest.read(checkpoint)).get("stream_digest", ""))


def replaced_images(checkpoint: Path) -> int:
    """How often an image could not be decoded until then."""
    return int(_record(Manifest.read(checkpoint)).get("replaced_images", 0))


def probes_since_best(checkpoint: Path) -> int:
    """How many scores in a row were no better until then."""
    return int(_record(Manifest.read(checkpoint)).get("probes_since_best", 0))


def settings_of(checkpoint: Path) -> Settings:
    """The settings that a checkpoint was written under. Raises: CheckpointError if altered."""
    return from_json(Manifest.read(checkpoint).content(SETTINGS_FILE).decode())


def check_origin(checkpoint: Path, settings: Settings) -> None:
    """Raises CheckpointError if `checkpoint` was written under settings with another result.

    Where images and first weights lie is left out: they may be moved, and what they are is known
    by their content (`training.identity`).
    """
    theirs = settings_of(checkpoint)
    if changed := [key for key in differences(settings, theirs) if key not in PLACES]:
        raise CheckpointError(
            f"Checkpoint {checkpoint} was written with another {', '.join(changed)}. To start a "
            "new run from its weights give it another --name and --model.start-from."
        )


def restore_checkpoint(folder: Path, state: TrainingState[M], settings: Settings) -> None:
    """Fills `state` from a verified checkpoint of the same run.

    Raises: CheckpointError if the checkpoint is of other settings, or does not fit;
      NewerSchemaError.
    """
    bring_tensors(folder)
    record = _glance_at(folder)  # the first worker has verified it, and this may be another one
    check_origin(folder, settings)
    manifest = Manifest.read(folder)
    for name, part in state.module.named_children():
        load_weights(part, manifest.require(file_of(name)))
    if state.average is not None:
        load_weights(state.average.encoder, manifest.require(AVERAGE))
    tensors = load_file(manifest.require(OPTIMIZER))
    _join_optimizer(state.optimizer, tensors, record["optimizer_groups"])
    state.scaler.load_state_dict(record["scaler"])
    state.step, state.skipped_steps = record["step"], record["skipped_steps"]
    state.replaced_images = record.get("replaced_images", 0)
    state.stream_digest = int(record.get("stream_digest", "0"), base=16)
    best, state.probes_since_best = record.get("best"), record.get("probes_since_best", 0)
    state.best = None if best is None else Best(**best)


def _join_optimizer(
    optimizer: Optimizer, tensors: dict[str, Tensor], groups: list[dict[str, Any]]
) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": groups})
