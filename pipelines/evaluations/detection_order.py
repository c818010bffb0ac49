"""The data sets that detectors are trained on, and the options that change how."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from bt_ray.detection import protocols
from bt_ray.detection.protocols import Backbone, DetectionProtocol
from bt_ray.errors import SettingsError
from pipelines.evaluations.order import Evaluation
from pipelines.evaluations.work import WorkOrder

if TYPE_CHECKING:
    from bt_ray.detection.layouts import Layout

_ADAPTABLE = ("batch", "rate", "falls", "warmup_steps", "weight_decay", "score_every", "backbone")
_SIZES = ("short_px", "test_short_px", "longest_px")


@dataclass(frozen=True, kw_only=True)
class DetectorOrder(Evaluation, WorkOrder, ABC):
    """A detector on a data set; options left out are the schedule's."""

    supervised: str | None = None
    """Weights of supervised training to fine-tune in the same way, too, named as ENCODER is: a
    file, timm:NAME, torchvision:WEIGHTS, …"""
    schedule: Literal["published", "small"] = "published"
    """How the detector is trained: as in Table 4, for many GPU hours, or for a few hundred images
    and two CPU cores."""
    backbone: Backbone | None = None
    """c4: the encoder's last stage works on regions; fpn: a feature pyramid of all stages."""
    steps: int | None = None
    """Steps of the training; falls, warm-up and scorings that are not given move in proportion."""
    batch: int | None = None
    """Images of one step, over all workers."""
    rate: float | None = None
    """Highest learning rate."""
    falls: tuple[int, ...] | None = None
    """Steps from which on the rate is a tenth of before."""
    warmup_steps: int | None = None
    """Steps in which the rate rises to its highest."""
    weight_decay: float | None = None
    """Of all weights."""
    score_every: int | None = None
    """Steps between two scorings of the test images."""
    short_px: tuple[int, ...] | None = None
    """Lengths of the images' shorter side in training, of which one is drawn for each."""
    test_short_px: int | None = None
    """Length of the shorter side in scoring."""
    longest_px: int | None = None
    """Most that the longer side may have."""
    workers: int = 1
    """Ray Train workers, which must divide the batch; 0 runs everything in this process. Each draws
    anchors and regions of its own images, so that another number changes a result as a seed does,
    a little."""
    seeds: int = 1
    """Detectors of each encoder, whose seeds count up from --seed."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """At images that cannot be decoded: stop once all of them are listed, or leave them out."""

    name: ClassVar[str]
    title: ClassVar[str]
    published: ClassVar[DetectionProtocol]
    is_voc: ClassVar[bool]
    """Whether the data set is laid out as VOC's, whose rule its scores are then told by, too."""

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise SettingsError(f"--seeds {self.seeds} must be at least 1.")

    @property
    def with_masks(self) -> bool:
        """Whether each object's mask is predicted, too."""
        return False

    @property
    def protocol(self) -> DetectionProtocol:
        """The schedule, with the options that were given in place of its own.

        Raises: SettingsError.
        """
        chosen = self.published if self.schedule == "published" else protocols.SMALL
        chosen = replace(chosen, masks=self.with_masks)
        if self.steps is not None:
            chosen = chosen.lasting(self.steps)
        scaling = replace(chosen.scaling, **self._given(_SIZES))
        return replace(chosen, scaling=scaling, **self._given(_ADAPTABLE))

    @abstractmethod
    def layouts(self) -> "tuple[Layout, Layout]":
        """The images to learn from, and to score on, with the same classes. Raises: DataError."""

    def _given(self, names: tuple[str, ...]) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class VocDetectionOrder(DetectorOrder):
    """VOC07+12: Faster R-CNN on trainval of 2007 and 2012, scored on test of 2007 (Table 4)."""

    root: Path
    """Folder that VOCdevkit lies in, with VOC2007 and VOC2012, or VOCdevkit itself."""

    name = "voc0712"
    title = "Detection (VOC07+12)"
    published = protocols.VOC
    is_voc = True

    def layouts(self) -> "tuple[Layout, Layout]":
        """Of the three splits."""
        from bt_ray.detection.voc import VOC07_12_TRAINVAL, VOC07_TEST, read_voc

        train = read_voc(self.root, VOC07_12_TRAINVAL)
        return train, read_voc(self.root, VOC07_TEST, classes=train.annotations.classes)


@dataclass(frozen=True, kw_only=True)
class _CocoOrder(DetectorOrder, ABC):
    """Objects in files of instances, with masks or without."""

    masks: bool
    """Whether each object's mask is predicted, too (Mask R-CNN)."""

    published = protocols.COCO
    is_voc = False

    @property
    def with_masks(self) -> bool:
        """As ordered."""
        return self.masks


@dataclass(frozen=True, kw_only=True)
class CocoDetectionOrder(_CocoOrder):
    """COCO: Mask R-CNN on train2017, scored on val2017 (Table 4's 1x schedule)."""

    root: Path
    """Folder that COCO lies in: annotations/, train2017/, val2017/."""
    masks: bool = True
    """Whether each object's mask is predicted, too (Mask R-CNN)."""

    name = "coco"
    title = "Detection (COCO)"

    def layouts(self) -> "tuple[Layout, Layout]":
        """Of the two splits."""
        from bt_ray.detection.coco import coco_place, read_coco

        train = read_coco(*coco_place(self.root, "train2017"), masks=self.masks)
        classes = train.annotations.classes
        val = coco_place(self.root, "val2017")
        return train, read_coco(*val, masks=self.masks, classes=classes)


@dataclass(frozen=True, kw_only=True)
class VocLayoutOrder(DetectorOrder):
    """Images of one's own in VOC's layout: Annotations/, ImageSets/Main/, JPEGImages/."""

    root: Path
    """Folder with the three."""
    train_split: str = "train"
    """Name of the list in ImageSets/Main of images to learn from, without .txt."""
    test_split: str = "test"
    """Name of the list of images to score on."""
    schedule: Literal["published", "small"] = "small"
    """How the detector is trained: as VOC07+12's in Table 4, or for a few hundred images and two
    CPU cores."""

    name = "voc-layout"
    title = "Detection"
    published = protocols.VOC
    is_voc = True

    def layouts(self) -> "tuple[Layout, Layout]":
        """Of the two lists."""
        from bt_ray.detection.voc import read_voc_folder

        train = read_voc_folder(self.root, [self.train_split])
        classes = train.annotations.classes
        return train, read_voc_folder(self.root, [self.test_split], classes=classes)


@dataclass(frozen=True, kw_only=True)
class CocoLayoutOrder(_CocoOrder):
    """Images of one's own with objects in files of instances, as COCO has them."""

    train_annotations: Path
    """JSON file with the objects to learn from."""
    train_images: Path
    """Folder of its images."""
    test_annotations: Path
    """JSON file with the objects to score on."""
    test_images: Path
    """Folder of its images."""
    masks: bool = False
    """Whether each object's mask is predicted, too (Mask R-CNN)."""
    schedule: Literal["published", "small"] = "small"
    """How the detector is trained: as COCO's in Table 4, or for a few hundred images and two CPU
    cores."""

    name = "coco-layout"
    title = "Detection"

    def layouts(self) -> "tuple[Layout, Layout]":
        """Of the two files."""
        from bt_ray.detection.coco import read_coco

        train = read_coco(self.train_annotations, self.train_images, masks=self.masks)
        classes = train.annotations.classes
        test = read_coco(self.test_annotations, self.test_images, masks=self.masks, classes=classes)
        return train, test
