"""Representations of all images of a data set, computed once by a frozen encoder."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bt_ray.data.batches import normalize
from bt_ray.data.shards import ShardSet
from bt_ray.errors import DataError
from bt_ray.evaluation.images import load_images
from bt_ray.model.pretrained import Pretrained

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


@torch.no_grad()
def compute_features(
    pretrained: Pretrained,
    shards: ShardSet,
    device: torch.device,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Features:
    """Features of every image of `shards`, of its central view; the encoder stays as it is."""
    encoder = pretrained.encoder.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    manifest = shards.manifest
    num_groups = -(-manifest.num_rows // manifest.rows_per_row_group)
    parts, labels, digests = [], [], []
    done = 0
    for first in range(0, num_groups, _ROW_GROUPS_AT_ONCE):
        table = shards.read(np.arange(first, min(first + _ROW_GROUPS_AT_ONCE, num_groups)))
        images = load_images(table, pretrained.settings.views.image_px)
        for block in images.pixels.split(_BLOCK):
            levels = normalize(block.to(device)).contiguous(memory_format=torch.channels_last)
            parts.append(encoder(levels).float().cpu())
        labels.append(images.labels)
        digests += [_digest(encoded.as_buffer()) for encoded in table["image"]]
        done += len(table)
        on_progress(done)
    return Features(
        torch.cat(parts), torch.cat(labels), np.array(digests, np.uint64), manifest.classes
    )


def _digest(encoded: object) -> int:
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), "little")  # type: ignore[arg-type]


def fingerprint(module: nn.Module) -> str:
    """SHA-256 over names and bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def check_labels(train: Features, test: Features) -> None:
    """Raises DataError unless a classifier can be learnt from `train` and scored on `test`."""
    for name, features in (("training", train), ("test", test)):
        missing = int((features.labels < 0).sum())
        if missing:
            raise DataError(
                f"{missing:,} of {len(features):,} {name} images have no label; give a folder "
                "with one subfolder a class, or shards made of one."
            )
    if train.classes != test.classes:
        odd = sorted(set(train.classes) ^ set(test.classes))
        raise DataError(
            "Training and test images must have the same classes; only one of them has "
            f"{', '.join(odd[:5])}{' …' if len(odd) > 5 else ''}."
        )
    if len(train.classes) < 2:
        raise DataError(
            f"There is nothing to tell apart: the images have one class, {train.classes[0]!r}."
        )


def check_disjoint(train: Features, test: Features, *, most_shared: int) -> None:
    """Raises DataError if more than `most_shared` test images are among the training images."""
    shared = int(np.isin(test.digests, train.digests).sum())
    if shared > most_shared:
        raise DataError(
            f"{shared:,} of {len(test):,} test images are among the training images, byte for "
            f"byte; a score would flatter. Take them out, or allow it by --most-shared {shared}."
        )
