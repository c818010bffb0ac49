"""Representations of all images of a data set, computed once by a frozen encoder."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bt_ray.config import Settings
from bt_ray.data.shards.shard_set import ShardSet, take_rows
from bt_ray.evaluation.images import load_images
from bt_ray.evaluation.labelled import digest
from bt_ray.model.inputs import normalize
from bt_ray.model.pretrained import Pretrained
from bt_ray.model.weights import fingerprint as fingerprint

_BLOCK = 256
_ROW_GROUPS_AT_ONCE = 4


@dataclass(frozen=True)
class Features:
    """What an encoder makes of n images, in the order of the data set.

    `x`: float32 (n, F); `labels`: int64 (n,), -1 where there is none; `digests`: uint64 (n,),
    of the encoded images' bytes; `classes`: their names.
    """

    x: Tensor
    labels: Tensor
    digests: NDArray[np.uint64]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.x)


def compute_features(
    pretrained: Pretrained,
    shards: ShardSet,
    device: torch.device,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Features:
    """Features of every image of `shards`, of its central view; the encoder stays as it is."""
    encoder = place_encoder(pretrained, device)
    parts: list[Encoded] = []
    done = 0
    for groups in group_runs(shards):
        parts.append(encode_groups(encoder, shards, groups, pretrained.settings, device))
        done += len(parts[-1].labels)
        on_progress(done)
    return join(parts, shards.manifest.classes)


@dataclass(frozen=True)
class Encoded:
    """Some images' features, labels and digests, as numpy arrays, with their rows."""

    rows: NDArray[np.int64]
    x: NDArray[np.float32]
    labels: NDArray[np.int64]
    digests: NDArray[np.uint64]


def place_encoder(pretrained: Pretrained, device: torch.device) -> nn.Module:
    """The encoder on the device, in eval mode."""
    encoder = pretrained.encoder.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return encoder.eval()  # type: ignore[no-any-return]


def group_runs(shards: ShardSet) -> Iterator[NDArray[np.int64]]:
    """All row groups, a few at a time."""
    manifest = shards.manifest
    num_groups = -(-manifest.num_rows // manifest.rows_per_row_group)
    for first in range(0, num_groups, _ROW_GROUPS_AT_ONCE):
        yield np.arange(first, min(first + _ROW_GROUPS_AT_ONCE, num_groups))


@torch.no_grad()
def encode_groups(
    encoder: nn.Module,
    shards: ShardSet,
    groups: NDArray[np.int64],
    settings: Settings,
    device: torch.device,
) -> Encoded:
    """What the encoder makes of the images of some row groups, but of those that are broken."""
    table = shards.read(groups)
    images = load_images(table, settings)
    parts = [np.empty((0, cast(int, encoder.num_features)), np.float32)]
    for block in images.pixels.split(_BLOCK):
        levels = normalize(block.to(device), settings.data)
        levels = levels.contiguous(memory_format=torch.channels_last)
        parts.append(encoder(levels).float().cpu().numpy())
    whole = take_rows(table, images.rows.numpy())
    return Encoded(
        rows=images.rows.numpy(),
        x=np.concatenate(parts),
        labels=images.labels.numpy(),
        digests=np.array([digest(image.as_buffer()) for image in whole["image"]], np.uint64),
    )


def join(parts: Sequence[Encoded], classes: tuple[str, ...]) -> Features:
    """All parts as one, in the order of their rows."""
    order = np.argsort(np.concatenate([part.rows for part in parts]))
    return Features(
        torch.from_numpy(np.concatenate([part.x for part in parts])[order]),
        torch.from_numpy(np.concatenate([part.labels for part in parts])[order]),
        np.concatenate([part.digests for part in parts])[order],
        classes,
    )
