"""What a frozen encoder's dense features are worth: semantic segmentation by a linear layer."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import psutil
import torch
from torch import Tensor, nn

from bt_ray.config import DataSettings
from bt_ray.errors import CheckpointError, DataError, SettingsError
from bt_ray.evaluation.features import place_encoder
from bt_ray.evaluation.image_files import digest_files
from bt_ray.evaluation.labelled import check_classes, check_disjoint
from bt_ray.model.encoder.dense import dense_features
from bt_ray.model.inputs import normalize
from bt_ray.model.pretrained import Pretrained
from bt_ray.model.weights import fingerprint
from bt_ray.segmentation.head import LinearHead, LinearProtocol, enlarge, train_head
from bt_ray.segmentation.layouts import MaskedImages
from bt_ray.segmentation.pairs import Pair, check_pairs, read_pairs, resize_mask
from bt_ray.segmentation.scores import Scorer, SegmentationScores

_MOST_OF_MEMORY = 0.7
Told = Callable[[str], None]


@dataclass(frozen=True)
class SegmentationData:
    """Images to learn from and others to score on, and their classes' names by index.

    `px` is the side of the square that the encoder sees of each.
    """

    train: MaskedImages
    test: MaskedImages
    classes: tuple[str, ...]
    px: int

    def check(self, data: DataSettings, most_shared: int) -> None:
        """Raises DataError unless the first can be learnt from, and scored on the second.

        Args:
          data: how the encoder's images are decoded.
          most_shared: test images that may be among the training images, byte for byte.
        """
        check_classes(self.classes, self.classes)
        for files in (self.train, self.test):
            check_pairs(files, len(self.classes), data)
        digests = [digest_files(files.images) for files in (self.train, self.test)]
        check_disjoint(*digests, most_shared=most_shared)


def score_segmentation(
    pretrained: Pretrained,
    data: SegmentationData,
    protocol: LinearProtocol,
    device: torch.device,
    tell: Told = lambda words: None,
) -> SegmentationScores:
    """Scores of a linear layer on the encoder's frozen features.

    It is learnt from `data.train`, whose features are computed once and kept in memory, and
    measured on `data.test` at the size of each mask.

    Args:
      tell: is told what is done.
    Raises: SettingsError if the encoder has no grid of features; DataError if an image cannot be
      decoded, or the features do not fit into memory; CheckpointError if the encoder came out
      changed.
    """
    before = fingerprint(pretrained.encoder)
    encoder = place_encoder(pretrained, device)
    dense = dense_features(encoder, pretrained.settings, data.px)
    features, masks = _remember(pretrained, dense, data, device, tell)
    head = train_head(
        features, masks, len(data.classes), protocol, device,
        lambda step, loss: tell(f"step {step + 1:,}, loss {loss:.3f}"),
    )  # fmt: skip
    scores = _score(pretrained, dense, head, data, device, tell)
    if fingerprint(pretrained.encoder) != before:
        raise CheckpointError("The encoder changed while it was evaluated; it must be frozen.")
    return scores


def _remember(
    pretrained: Pretrained,
    dense: nn.Module,
    data: SegmentationData,
    device: torch.device,
    tell: Told,
) -> tuple[Tensor, Tensor]:
    """Features (n, C, h, w) of all training images, and their masks (n, px, px)."""
    features = torch.empty(0)
    masks = torch.empty(len(data.train), data.px, data.px, dtype=torch.uint8)
    done = 0
    for pairs, found in _encoded(pretrained, dense, data.train, data.px, device):
        if done == 0:
            features = _room(found, len(data.train), data.px)
        features[done : done + len(pairs)] = found.cpu()
        for row, pair in enumerate(pairs, start=done):
            masks[row] = torch.from_numpy(resize_mask(pair.mask, data.px))
        done += len(pairs)
        tell(f"{done:,} of {len(data.train):,} training images encoded")
    return features, masks


def _room(found: Tensor, count: int, px: int) -> Tensor:
    """Where the features of so many images are kept. Raises: DataError, SettingsError."""
    height, width = found.shape[2:]
    if height * width == 1:
        raise SettingsError(
            f"The encoder gives one cell for an image of {px}×{px} pixels, which tells nothing of "
            "places; give larger images (--resize-px)."
        )
    needed, free = 4 * count * found[0].numel(), psutil.virtual_memory().available
    if needed > _MOST_OF_MEMORY * free:
        raise DataError(
            f"The features of {count:,} images, {found.shape[1]}×{height}×{width} each, take "
            f"{needed / 2**30:,.1f} GiB, and {free / 2**30:,.1f} GiB of memory are free; take "
            "fewer training images, or smaller ones (--resize-px)."
        )
    return torch.empty(count, *found.shape[1:], memory_format=torch.channels_last)


@torch.no_grad()
def _score(
    pretrained: Pretrained,
    dense: nn.Module,
    head: LinearHead,
    data: SegmentationData,
    device: torch.device,
    tell: Told,
) -> SegmentationScores:
    scorer, done = Scorer(data.classes), 0
    for pairs, found in _encoded(pretrained, dense, data.test, data.px, device):
        for pair, cells in zip(pairs, head(found), strict=True):
            scores = enlarge(cells[None], pair.mask.shape)
            labels = torch.from_numpy(pair.mask.astype(np.int64))
            scorer.update(scores.argmax(1).cpu(), labels[None])
        done += len(pairs)
        tell(f"{done:,} of {len(data.test):,} test images scored")
    return scorer.compute()


@torch.no_grad()
def _encoded(
    pretrained: Pretrained, dense: nn.Module, files: MaskedImages, px: int, device: torch.device
) -> Iterator[tuple[Sequence[Pair], Tensor]]:
    """All images with their masks, a few at a time, and their features on the device."""
    data = pretrained.settings.data
    for pairs in read_pairs(files, px, data):
        levels = torch.from_numpy(np.stack([pair.levels for pair in pairs])).to(device)
        x = normalize(levels, data).contiguous(memory_format=torch.channels_last)
        yield pairs, dense(x).float()
