"""Labelled images before anything is computed of them: can they be learnt from, and scored on?"""

import hashlib
from collections.abc import Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.errors import DataError

_THREADS = 4


class Labelled(Sized, Protocol):
    """Some images' labels and what tells the images apart."""

    @property
    def labels(self) -> Tensor:
        """int64 (n,), -1 where there is none."""

    @property
    def digests(self) -> NDArray[np.uint64]:
        """(n,), of the encoded images' bytes."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names."""


@dataclass(frozen=True)
class Labels:
    """Labels and digests of all images of a data set, in its order."""

    labels: Tensor
    digests: NDArray[np.uint64]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


def read_labels(shards: ShardSet) -> Tensor:
    """int64 (n,), the label of each image; -1 where there is none."""
    column = shards.read_columns(["label"])["label"]
    return torch.from_numpy(column.fill_null(-1).to_numpy().astype(np.int64))


def read_labelled(shards: ShardSet) -> Labels:
    """Labels and digests of all images; each is read once."""
    manifest = shards.manifest
    num_groups = -(-manifest.num_rows // manifest.rows_per_row_group)

    def digests(group: int) -> list[int]:
        return [digest(image.as_buffer()) for image in shards.read(np.array([group]))["image"]]

    with ThreadPoolExecutor(_THREADS) as pool:
        found = [number for part in pool.map(digests, range(num_groups)) for number in part]
    return Labels(read_labels(shards), np.array(found, np.uint64), manifest.classes)


def digest(encoded: object) -> int:
    """64 bits that tell an encoded image from others."""
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), "little")  # type: ignore[arg-type]


def check_labels(train: Labelled, test: Labelled) -> None:
    """Raises DataError unless a classifier can be learnt from `train` and scored on `test`."""
    check_complete(train.labels, "training")
    check_complete(test.labels, "test")
    check_classes(train.classes, test.classes)


def check_complete(labels: Tensor, kind: str) -> None:
    """Raises DataError if an image of this kind has no label."""
    missing = int((labels < 0).sum())
    if missing:
        raise DataError(
            f"{missing:,} of {len(labels):,} {kind} images have no label; give a folder with one "
            "subfolder a class, or shards made of one."
        )


def check_classes(train: tuple[str, ...], test: tuple[str, ...]) -> None:
    """Raises DataError unless both have the same classes, and there are two at least."""
    if train != test:
        odd = sorted(set(train) ^ set(test))
        raise DataError(
            "Training and test images must have the same classes; only one of them has "
            f"{', '.join(odd[:5])}{' …' if len(odd) > 5 else ''}."
        )
    if len(train) < 2:
        raise DataError(f"There is nothing to tell apart: the images have one class, {train[0]!r}.")


def check_disjoint(
    train: NDArray[np.uint64], test: NDArray[np.uint64], *, most_shared: int
) -> None:
    """Raises DataError if more than `most_shared` test images are among the training images.

    Args:
      train, test: digests of the images.
    """
    shared = int(np.isin(test, train).sum())
    if shared > most_shared:
        raise DataError(
            f"{shared:,} of {len(test):,} test images are among the training images, byte for "
            f"byte; a score would flatter. Take them out, or allow it by --most-shared {shared}."
        )
