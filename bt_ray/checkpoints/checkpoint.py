"""Checkpoints: safetensors for tensors, JSON for the rest, nothing that is unpickled.

A checkpoint is a folder. Its manifest, the SHA-256 sums of the other files, is written
last: a folder without a manifest, or with one that does not fit, is not a checkpoint.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import Optimizer

from bt_ray.checkpoints.host_copies import HostCopies
from bt_ray.checkpoints.state import TrainingState
from bt_ray.checkpoints.tensor_file import stated_size, write_tensors
from bt_ray.config import PLACES, SETTINGS_FILE, Settings, differences, from_json, to_json
from bt_ray.data.stream.digest import to_text
from bt_ray.errors import CheckpointError, NewerSchemaError, RunFailedError
from bt_ray.model.weights import file_of, load_weights

M = TypeVar("M", bound=nn.Module)

SCHEMA_VERSION = 1
KEPT_CHECKPOINTS = 2
MANIFEST = "manifest.json"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"


@dataclass(frozen=True)
class Draft:
    """What a checkpoint will hold, to be written while training goes on."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    """By the file that they belong to, and by their name in it; in host memory."""
    texts: Mapping[str, str]
    """By file."""
    wait: Callable[[], None]
    """Returns when the tensors are whole."""

    def write(self, folder: Path) -> None:
        """Writes the checkpoint into `folder`; what is there already is written over.

        Raises: RunFailedError if the disk is full or otherwise refuses.
        """
        self.wait()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            sums = {name: write_tensors(part, folder / name) for name, part in self.tensors.items()}
            for name, text in self.texts.items():
                (folder / name).write_text(text)
                sums[name] = _sha256(folder / name)
            (folder / MANIFEST).write_text(json.dumps(dict(sorted(sums.items())), indent=2))
        except OSError as error:
            step = json.loads(self.texts[STATE])["step"]
            raise RunFailedError(
                f"The checkpoint of step {step} cannot be written to {folder.parent} "
                f"({error.strerror or error}). Those before are kept: make room, and the same "
                "command continues the run."
            ) from error


def draft_checkpoint(
    state: TrainingState[M], settings: Settings, copies: HostCopies | None = None
) -> Draft:
    """What a checkpoint of `state` holds; the state may change as soon as this returns.

    Args:
      copies: buffers of the drafts of one run; the draft before must have been written.
    """
    copies = HostCopies() if copies is None else copies
    tensors: dict[str, Mapping[str, Tensor]] = {
        file_of(name): part.state_dict() for name, part in state.module.named_children()
    }
    tensors[OPTIMIZER], groups = _split_optimizer(state.optimizer)
    record = {
        "schema_version": SCHEMA_VERSION,
        "step": state.step,
        "skipped_steps": state.skipped_steps,
        "replaced_images": state.replaced_images,
        "stream_digest": to_text(state.stream_digest),
        "optimizer_groups": groups,
        "scaler": state.scaler.state_dict(),
    }
    texts = {SETTINGS_FILE: to_json(settings), STATE: json.dumps(record, indent=2)}
    return Draft(copies.take(tensors), texts, copies.wait)


def save_checkpoint(folder: Path, state: TrainingState[M], settings: Settings) -> None:
    """Writes `state` into `folder`, and returns when it is written.

    Raises: RunFailedError if the disk is full or otherwise refuses.
    """
    draft_checkpoint(state, settings).write(folder)


def verify_checkpoint(folder: Path) -> dict[str, Any]:
    """The content of a checkpoint's state file, once every checksum holds.

    Raises: CheckpointError if a file is missing or altered; NewerSchemaError.
    """
    for name, expected in _sums(folder).items():
        if not (folder / name).is_file() or _sha256(folder / name) != expected:
            raise CheckpointError(
                f"{name} in checkpoint {folder} is missing or was altered (its SHA-256 does not "
                "fit the manifest); the run continues from the checkpoint before."
            )
    return _record(folder)


def last_checkpoint(run_folder: Path) -> tuple[Path | None, int]:
    """The complete checkpoint of a run with the most steps, and those steps.

    One that was cut short or altered is passed over for the one before it.

    Returns: (None, 0) without any.
    Raises: NewerSchemaError: to pass over such a one would undo another bt_ray's work.
    """
    return _first_that_passes(verify_checkpoint, run_folder)


def newest_checkpoint(run_folder: Path) -> tuple[Path | None, int]:
    """The same without reading the tensors: none of their files is missing or was cut short.

    That suffices to tell where a run stands. Its worker verifies what it continues from
    (`checkpoints.resume`).

    Raises: NewerSchemaError.
    """
    return _first_that_passes(_glance_at, run_folder)


def _first_that_passes(
    check: Callable[[Path], dict[str, Any]], run_folder: Path
) -> tuple[Path | None, int]:
    folders = [manifest.parent for manifest in run_folder.glob(f"*/checkpoint_*/{MANIFEST}")]
    for folder in sorted(folders, key=_stated_step, reverse=True):
        try:
            return folder, int(check(folder)["step"])
        except NewerSchemaError:
            raise
        except CheckpointError:
            continue
    return None, 0


def _glance_at(folder: Path) -> dict[str, Any]:
    """The content of a checkpoint's state file, once all files are as long as they must be.

    Raises: CheckpointError, NewerSchemaError.
    """
    for name, expected in _sums(folder).items():
        file = folder / name
        is_tensors = file.suffix == ".safetensors"
        if not file.is_file() or not (
            file.stat().st_size == stated_size(file) if is_tensors else _sha256(file) == expected
        ):
            raise CheckpointError(f"{name} in checkpoint {folder} is missing or was cut short.")
    return _record(folder)


def _sums(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file, by name.

    Raises: CheckpointError if there is no such list.
    """
    try:
        sums: dict[str, str] = json.loads((folder / MANIFEST).read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{folder} is no complete checkpoint: {error}.") from error
    return sums


def _record(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / STATE).read_text())
    if record["schema_version"] > SCHEMA_VERSION:
        raise NewerSchemaError(
            f"Checkpoint {folder} has schema {record['schema_version']}; this bt_ray reads up to "
            f"{SCHEMA_VERSION}. Use a newer bt_ray."
        )
    return record


def stream_digest(checkpoint: Path) -> str:
    """Of all data that a checkpoint's run was trained on, in hexadecimal digits."""
    return str(json.loads((checkpoint / STATE).read_text()).get("stream_digest", ""))


def replaced_images(checkpoint: Path) -> int:
    """How often an image could not be decoded until then."""
    return int(json.loads((checkpoint / STATE).read_text()).get("replaced_images", 0))


def check_origin(checkpoint: Path, settings: Settings) -> None:
    """Raises CheckpointError if `checkpoint` was written under settings with another result.

    Where images and first weights lie is left out: they may be moved, and what they are is known
    by their content (`training.identity`).
    """
    theirs = from_json((checkpoint / SETTINGS_FILE).read_text())
    if changed := [key for key in differences(settings, theirs) if key not in PLACES]:
        raise CheckpointError(
            f"Checkpoint {checkpoint} was written with another {', '.join(changed)}. To start a "
            "new run from its weights give it another --name and --model.start-from."
        )


def _stated_step(folder: Path) -> int:
    """What a checkpoint says of itself, unverified; −1 if it cannot be read."""
    try:
        return int(json.loads((folder / STATE).read_text())["step"])
    except (OSError, ValueError, KeyError):
        return -1


def restore_checkpoint(folder: Path, state: TrainingState[M], settings: Settings) -> None:
    """Fills `state` from a verified checkpoint of the same run.

    Raises: CheckpointError if the checkpoint is of other settings, or does not fit;
      NewerSchemaError.
    """
    record = _record(folder)
    check_origin(folder, settings)
    for name, part in state.module.named_children():
        load_weights(part, folder / file_of(name))
    _join_optimizer(state.optimizer, load_file(folder / OPTIMIZER), record["optimizer_groups"])
    state.scaler.load_state_dict(record["scaler"])
    state.step, state.skipped_steps = record["step"], record["skipped_steps"]
    state.replaced_images = record.get("replaced_images", 0)
    state.stream_digest = int(record.get("stream_digest", "0"), base=16)


def _split_optimizer(optimizer: Optimizer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """An optimizer's state as tensors by name and plain numbers by group."""
    tree = optimizer.state_dict()
    tensors = {
        f"{index}.{name}": value
        for index, values in tree["state"].items()
        for name, value in values.items()
    }
    return tensors, tree["param_groups"]


def _join_optimizer(
    optimizer: Optimizer, tensors: dict[str, Tensor], groups: list[dict[str, Any]]
) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
