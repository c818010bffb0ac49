"""Segmentation: `python -m pipelines.evaluate segmentation ENCODER --root DIR`."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bt_ray.errors import DataError
from pipelines.evaluations.order import (
    UNTRAINED,
    Evaluation,
    Subject,
    keep_record,
    print_scores,
)
from pipelines.terminal import console

if TYPE_CHECKING:
    from bt_ray.model.pretrained import Pretrained
    from bt_ray.segmentation.evaluate import SegmentationData
    from bt_ray.segmentation.head import LinearProtocol
    from bt_ray.segmentation.layouts import MaskedImages
    from bt_ray.segmentation.scores import SegmentationScores

_COLUMNS = {"segmentation_miou": "mIoU", "segmentation_pixel_accuracy": "pixel accuracy"}
_PARTS = ("mean_iou", "pixel_accuracy")


@dataclass(frozen=True, kw_only=True)
class SegmentationOrder(Evaluation):
    """Semantic segmentation by a linear layer on the frozen encoder's dense features."""

    root: Path | None = None
    """Folder that VOCdevkit lies in; none: images and masks are in the four folders below."""
    year: str = "2012"
    """Of VOC: VOCdevkit/VOC{year}."""
    train_split: str = "train"
    """List in ImageSets/Segmentation to learn from."""
    test_split: str = "val"
    """List in ImageSets/Segmentation to score on."""
    train_images: Path | None = None
    """Images to learn from."""
    train_masks: Path | None = None
    """Their masks: PNGs called alike, with a palette or grey, that hold class indices; 255 is
    ignored."""
    test_images: Path | None = None
    """Images to score on."""
    test_masks: Path | None = None
    """Their masks."""
    classes: tuple[str, ...] = ()
    """Names of the classes by index; none: VOC's 21, or of folders as many as the training masks'
    highest index tells."""
    resize_px: int | None = None
    """Side of the square that images are stretched to; none: that of the encoder's own images."""
    epochs: int = 20
    """Passes over the training images' features."""
    batch: int = 16
    """Images of one step."""
    rate: float = 1e-3
    """First learning rate of the linear layer."""
    weight_decay: float = 1e-4
    """Of AdamW."""
    seed: int = 0
    """Of the linear layer's first weights and of the images' order."""

    def protocol(self) -> "LinearProtocol":
        """How the linear layer is trained. Raises: SettingsError."""
        from bt_ray.segmentation.head import LinearProtocol

        return LinearProtocol(
            epochs=self.epochs,
            batch=self.batch,
            rate=self.rate,
            weight_decay=self.weight_decay,
            seed=self.seed,
        )

    def files(self) -> "tuple[MaskedImages, MaskedImages]":
        """Images to learn from and to score on. Raises: DataError."""
        from bt_ray.segmentation.layouts import read_folders, read_voc

        folders = (self.train_images, self.train_masks, self.test_images, self.test_masks)
        if self.root is not None and not any(folders):
            train, test = (
                read_voc(self.root, self.year, split)
                for split in (self.train_split, self.test_split)
            )
            return train, test
        images, masks, others, their_masks = folders
        if self.root is not None or not (images and masks and others and their_masks):
            raise DataError(
                "segmentation needs either --root, the folder that VOC was unpacked in, or all of "
                "--train-images, --train-masks, --test-images and --test-masks."
            )
        return read_folders(images, masks), read_folders(others, their_masks)


def evaluate_segmentation(order: SegmentationOrder) -> dict[str, Any]:
    """Makes the evaluation; its record, which is printed, kept in a file and logged to the run."""
    from bt_ray.checkpoints.start import untrained
    from bt_ray.evaluation.encoder import open_encoder

    protocol, (train, test) = order.protocol(), order.files()
    given = order.settings()
    pretrained, run = open_encoder(order.encoder, given)
    data = _data(order, pretrained, train, test)
    encoders = {"": pretrained} | ({UNTRAINED: untrained(pretrained)} if order.baseline else {})
    began = time.perf_counter()
    found = {
        suffix: _score(order, encoder, data, protocol, suffix)
        for suffix, encoder in encoders.items()
    }
    seconds = time.perf_counter() - began
    scores = {
        f"{column}{suffix}": getattr(one, part)
        for suffix, one in found.items()
        for column, part in zip(_COLUMNS, _PARTS, strict=True)
    }
    print_scores(order, "Segmentation, linear layer", _COLUMNS, scores, ())
    return keep_record(
        order,
        "segmentation",
        Subject(given=given, pretrained=pretrained, run=run),
        scores,
        data={
            part: {"path": str(files.images[0].parent), "images": len(files)}
            for part, files in (("train", train), ("test", test))
        },
        images_per_s=(len(train) + len(test)) * len(encoders) / seconds,
        more={"resize_px": data.px, "iou": {f"iou{s}": one.iou for s, one in found.items()}},
    )


def _data(
    order: SegmentationOrder, pretrained: "Pretrained", train: "MaskedImages", test: "MaskedImages"
) -> "SegmentationData":
    """The images with their classes, once they were looked at. Raises: DataError."""
    from bt_ray.segmentation.evaluate import SegmentationData
    from bt_ray.segmentation.layouts import VOC_CLASSES
    from bt_ray.segmentation.pairs import count_classes

    settings = pretrained.settings
    with console.status("looking at images and masks"):
        classes = order.classes or (
            VOC_CLASSES if order.root else tuple(map(str, range(count_classes(train))))
        )
        px = order.resize_px or settings.views.image_px
        data = SegmentationData(train, test, classes, px)
        data.check(settings.data, order.most_shared)
    return data


def _score(
    order: SegmentationOrder,
    pretrained: "Pretrained",
    data: "SegmentationData",
    protocol: "LinearProtocol",
    suffix: str,
) -> "SegmentationScores":
    from bt_ray.segmentation.evaluate import score_segmentation
    from bt_ray.training.local import choose_device

    words = f"segmentation{suffix.replace('_', ', ')}"
    with console.status(words) as status:
        return score_segmentation(
            pretrained,
            data,
            protocol,
            choose_device(order.settings()),
            lambda done: status.update(f"{words}: {done}"),
        )
