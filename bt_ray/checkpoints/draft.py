"""A checkpoint that is to be written: tensors as safetensors, the rest as JSON, nothing pickled."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.optim import Optimizer

from bt_ray.checkpoints.host_copies import HostCopies
from bt_ray.checkpoints.manifest import write_manifest
from bt_ray.checkpoints.state import TrainingState
from bt_ray.checkpoints.tensor_file import write_tensors
from bt_ray.config import SETTINGS_FILE, Settings, to_json
from bt_ray.data.stream.digest import to_text
from bt_ray.errors import RunFailedError
from bt_ray.model.average import AVERAGE
from bt_ray.model.weights import file_of

M = TypeVar("M", bound=nn.Module)

SCHEMA_VERSION = 1
"""Of the state file."""
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"


@dataclass(frozen=True)
class Draft:
    """What a checkpoint will hold, to be written while training goes on."""

    step: int
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
                content = text.encode()
                (folder / name).write_bytes(content)
                sums[name] = hashlib.sha256(content).hexdigest()
            write_manifest(folder, self.step, sums)
        except OSError as error:
            raise RunFailedError(
                f"The checkpoint of step {self.step} cannot be written to {folder.parent} "
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
    if state.average is not None:
        tensors[AVERAGE] = state.average.encoder.state_dict()
    tensors[OPTIMIZER], groups = _split_optimizer(state.optimizer)
    record = {
        "schema_version": SCHEMA_VERSION,
        "step": state.step,
        "skipped_steps": state.skipped_steps,
        "replaced_images": state.replaced_images,
        "stream_digest": to_text(state.stream_digest),
        "best": None if state.best is None else asdict(state.best),
        "probes_since_best": state.probes_since_best,
        "optimizer_groups": groups,
        "scaler": state.scaler.state_dict(),
    }
    texts = {SETTINGS_FILE: to_json(settings), STATE: json.dumps(record, indent=2)}
    return Draft(state.step, copies.take(tensors), texts, copies.wait)


def _split_optimizer(optimizer: Optimizer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """An optimizer's state as tensors by name and plain numbers by group."""
    tree = optimizer.state_dict()
    tensors = {
        f"{index}.{name}": value
        for index, values in tree["state"].items()
        for name, value in values.items()
    }
    return tensors, tree["param_groups"]
