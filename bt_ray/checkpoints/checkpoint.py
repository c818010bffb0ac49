"""Checkpoints: safetensors for tensors, JSON for the rest, nothing that is unpickled.

A checkpoint is a folder. Its manifest, the SHA-256 sums of the other files, is written
last: a folder without a manifest, or with one that does not fit, is not a checkpoint.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from bt_ray.checkpoints.state import TrainingState
from bt_ray.config import SETTINGS_FILE, Settings, differences, from_json, to_json
from bt_ray.data.stream.digest import to_text
from bt_ray.errors import CheckpointError, NewerSchemaError
from bt_ray.model.weights import file_of, load_weights, save_weights

M = TypeVar("M", bound=nn.Module)

SCHEMA_VERSION = 1
KEPT_CHECKPOINTS = 2
MANIFEST = "manifest.json"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"


def save_checkpoint(folder: Path, state: TrainingState[M], settings: Settings) -> None:
    """Writes `state` into `folder`, which must not exist or be empty."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in state.module.named_children():
        save_weights(part, folder / file_of(name))
    tensors, groups = _split_optimizer(state.optimizer)
    save_file(tensors, folder / OPTIMIZER)
    (folder / SETTINGS_FILE).write_text(to_json(settings))
    record = {
        "schema_version": SCHEMA_VERSION,
        "step": state.step,
        "skipped_steps": state.skipped_steps,
        "replaced_images": state.replaced_images,
        "stream_digest": to_text(state.stream_digest),
        "optimizer_groups": groups,
        "scaler": state.scaler.state_dict(),
    }
    (folder / STATE).write_text(json.dumps(record, indent=2))
    sums = {file.name: _sha256(file) for file in sorted(folder.iterdir())}
    (folder / MANIFEST).write_text(json.dumps(sums, indent=2))


def verify_checkpoint(folder: Path) -> dict[str, Any]:
    """The content of a checkpoint's state file, once every checksum holds.

    Raises: CheckpointError if a file is missing or altered; NewerSchemaError.
    """
    try:
        sums = json.loads((folder / MANIFEST).read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{folder} is no complete checkpoint: {error}.") from error
    for name, expected in sums.items():
        if not (folder / name).is_file() or _sha256(folder / name) != expected:
            raise CheckpointError(
                f"{name} in checkpoint {folder} is missing or was altered (its SHA-256 does not "
                "fit the manifest); the run continues from the checkpoint before."
            )
    record: dict[str, Any] = json.loads((folder / STATE).read_text())
    if record["schema_version"] > SCHEMA_VERSION:
        raise NewerSchemaError(
            f"Checkpoint {folder} has schema {record['schema_version']}; this bt_ray reads up to "
            f"{SCHEMA_VERSION}. Use a newer bt_ray."
        )
    return record


def last_checkpoint(run_folder: Path) -> tuple[Path | None, int]:
    """The complete checkpoint of a run with the most steps, and those steps.

    One that was cut short or altered is passed over for the one before it.

    Returns: (None, 0) without any.
    Raises: NewerSchemaError: to pass over such a one would undo another bt_ray's work.
    """
    folders = [manifest.parent for manifest in run_folder.glob(f"*/checkpoint_*/{MANIFEST}")]
    for folder in sorted(folders, key=_stated_step, reverse=True):
        try:
            return folder, int(verify_checkpoint(folder)["step"])
        except NewerSchemaError:
            raise
        except CheckpointError:
            continue
    return None, 0


def stream_digest(checkpoint: Path) -> str:
    """Of all data that a checkpoint's run was trained on, in hexadecimal digits."""
    return str(json.loads((checkpoint / STATE).read_text()).get("stream_digest", ""))


def replaced_images(checkpoint: Path) -> int:
    """How often an image could not be decoded until then."""
    return int(json.loads((checkpoint / STATE).read_text()).get("replaced_images", 0))


def check_origin(checkpoint: Path, settings: Settings) -> None:
    """Raises CheckpointError if `checkpoint` was written under settings with another result."""
    theirs = from_json((checkpoint / SETTINGS_FILE).read_text())
    if changed := differences(settings, theirs):
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
    """Fills `state` from a checkpoint of the same run.

    Raises: CheckpointError if the checkpoint is damaged or of other settings.
    """
    record = verify_checkpoint(folder)
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
        f"{index}.{name}": value.contiguous()
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
