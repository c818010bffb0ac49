"""The weights that a run started from, which it keeps in its own folder (`model.start_from`).

They are written before the first step. So neither its workers nor a later evaluation need the
place that they came from.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from bt_ray.checkpoints.manifest import MANIFEST, Manifest, write_manifest
from bt_ray.checkpoints.tensor_file import write_tensors
from bt_ray.config import Settings, flatten
from bt_ray.errors import CheckpointError
from bt_ray.model.encoder import build_encoder
from bt_ray.model.network import Network
from bt_ray.model.pretrained import Pretrained
from bt_ray.model.weights import ENCODER, file_of, load_weights
from bt_ray.storage.names import folder_of
from bt_ray.storage.working_copy import bring, send

START = "start"
"""Name of the folder in a run's folder."""
SOURCE = "source.json"
"""Name of the file in it that says what the weights were made of."""


def start_folder(settings: Settings) -> Path:
    """Where a run keeps the weights that it started from."""
    return folder_of(settings.storage) / settings.name / START


def keep_start(
    folder: Path,
    settings: Settings,
    parts: Mapping[str, Mapping[str, Tensor]],
    notes: Sequence[str],
) -> None:
    """Writes first weights into a run's `start` folder, the manifest last.

    Args:
      settings: with `model.start_sha256`.
      parts: tensors of the encoder and perhaps of the projector and predictor, by name.
      notes: sentences on what was done to make them fit.
    Raises: OSError, StorageError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    sums = {
        file_of(name): write_tensors(part, folder / file_of(name)) for name, part in parts.items()
    }
    flat = flatten(settings)
    source = {key: flat[f"model.{key}"] for key in ("start_from", "start_sha256")}
    content = json.dumps(source | {"notes": list(notes)}, indent=2).encode()
    (folder / SOURCE).write_bytes(content)
    sums[SOURCE] = hashlib.sha256(content).hexdigest()
    write_manifest(folder, 0, sums)
    for name in (*sums, MANIFEST):
        send(folder / name)


def kept_sha256(folder: Path) -> str | None:
    """`model.start_sha256` of the weights that are kept in a folder; none if none are.

    Raises: CheckpointError if they were altered; StorageError.
    """
    bring(folder)
    if not (folder / MANIFEST).is_file():
        return None
    manifest = Manifest.read(folder)
    manifest.verify()
    return str(json.loads(manifest.content(SOURCE))["start_sha256"])


def load_start(network: Network, settings: Settings) -> None:
    """Fills a new network with the weights that their run keeps as its start.

    Raises: CheckpointError if they are missing or altered, or are not those of the settings.
    """
    manifest = _open(start_folder(settings), settings)
    for name, part in network.named_children():
        if file_of(name) in manifest.files:
            load_weights(part, manifest.require(file_of(name)))


def untrained(pretrained: Pretrained) -> Pretrained:
    """The encoder before it was pretrained: with the weights that its run started from.

    Those were drawn with the seed of the run's settings, unless `model.start_from` named others.

    Raises: CheckpointError if the run has not kept them.
    """
    settings = pretrained.settings
    torch.manual_seed(settings.training.seed)
    encoder = build_encoder(settings)
    if settings.model.start_from is not None:
        if pretrained.start is None:
            raise CheckpointError(_gone(settings))
        manifest = _open(pretrained.start, settings)
        load_weights(encoder, manifest.require(ENCODER))
    return Pretrained(encoder.eval(), settings)


def _open(folder: Path, settings: Settings) -> Manifest:
    """The manifest of first weights, once all sums hold, and they are those of the settings."""
    found, wanted = kept_sha256(folder), settings.model.start_sha256
    if found is None or (wanted is not None and found != wanted):
        raise CheckpointError(_gone(settings))
    return Manifest.read(folder)


def _gone(settings: Settings) -> str:
    return (
        f"The run {settings.name!r} started from model.start_from={settings.model.start_from}, and "
        f"those weights are not in the folder {START!r} of its own folder: bring that back, or "
        "leave the encoder before pretraining out (--no-baseline)."
    )
