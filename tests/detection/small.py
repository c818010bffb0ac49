"""Small detectors and what they are trained on: a narrow ResNet, painted rectangles."""

import io
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn

from bt_ray.config import Settings, override
from bt_ray.detection.annotations import Annotations, Objects
from bt_ray.detection.assignment import Detection
from bt_ray.detection.layouts import Layout
from bt_ray.detection.masks import encode_mask
from bt_ray.detection.model import Detector, build, build_detector
from bt_ray.detection.prepare import prepare_layout
from bt_ray.detection.protocols import DetectionProtocol, SceneScaling
from bt_ray.detection.targets import Target
from bt_ray.presets import preset

CLASSES = ("red", "green")
COLOURS = ((230, 30, 20), (20, 210, 40))
PROTOCOL = DetectionProtocol(
    steps=6, batch=4, rate=0.02, falls=(5,), warmup_steps=2, score_every=100,
    scaling=SceneScaling(short_px=(40, 48), test_short_px=48, longest_px=64),
)  # fmt: skip
ENCODER = "tests.detection.small:narrow"


def narrow(channels: int) -> nn.Module:
    """A ResNet of the usual kind with few channels, one block a stage."""
    return ResNet(
        BasicBlock, (1, 1, 1, 1), num_classes=0, in_chans=channels, channels=(8, 12, 16, 24),
        zero_init_last=False,
    )  # fmt: skip


def wider(channels: int) -> nn.Module:
    """The same with some more."""
    return ResNet(
        BasicBlock, (1, 1, 1, 1), num_classes=0, in_chans=channels, channels=(24, 32, 48, 64),
        zero_init_last=False,
    )  # fmt: skip


def narrow_pyramid(channels: int = 16, features: int = 32) -> AbstractContextManager[Any]:
    """A context in which pyramids and masks have few channels: 256 take seconds a step."""
    return patch.multiple(
        build,
        _PYRAMID_CHANNELS=channels,
        _PYRAMID_FEATURES=features,
        _MASK_CHANNELS=channels,
    )


def detector_of(protocol: DetectionProtocol = PROTOCOL, seed: int = 0) -> Detector:
    """A narrow detector of two classes."""
    torch.manual_seed(seed)
    return build_detector(narrow(3), len(CLASSES), protocol).train()


def painted(boxes: list[list[int]], labels: list[int], *, px: int = 64) -> tuple[Tensor, Target]:
    """A square image, normalised more or less, and its target with masks."""
    image = torch.full((3, px, px), -1.0)
    masks = torch.zeros(len(boxes), px, px, dtype=torch.uint8)
    for number, (left, top, right, bottom) in enumerate(boxes):
        image[labels[number] - 1, top:bottom, left:right] = 2.0
        masks[number, top:bottom, left:right] = 1
    return image, {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "masks": masks,
    }


def rectangles(folder: Path, count: int = 16) -> Layout:
    """Images of one or two rectangles, with masks; every fifth image has none."""
    folder.mkdir(parents=True, exist_ok=True)
    random, files, found = np.random.default_rng(0), [], []
    for number in range(count):
        width, height = random.integers(40, 64, 2).tolist()
        levels = random.integers(0, 60, (height, width, 3)).astype(np.uint8)
        boxes, labels, masks = [], [], []
        for _ in range(0 if number % 5 == 4 else int(random.integers(1, 3))):
            left, top = random.integers(0, 16, 2).tolist()
            right, bottom = left + int(random.integers(12, 24)), top + int(random.integers(12, 24))
            label = int(random.integers(0, 2))
            levels[top:bottom, left:right] = COLOURS[label]
            mask = np.zeros((height, width), np.uint8)
            mask[top:bottom, left:right] = 1
            boxes.append([left, top, min(right, width), min(bottom, height)])
            labels.append(label)
            masks.append(encode_mask(mask))
        buffer = io.BytesIO()
        Image.fromarray(levels).save(buffer, format="PNG")
        file = folder / f"{number:03d}.png"
        file.write_bytes(buffer.getvalue())
        files.append(str(file))
        found.append(
            Objects(
                height=height,
                width=width,
                boxes=np.array(boxes, np.float32).reshape(-1, 4),
                labels=np.array(labels, np.int64),
                is_crowd=np.zeros(len(labels), bool),
                is_difficult=np.zeros(len(labels), bool),
                masks=tuple(masks),
            )
        )
    names = tuple(Path(file).name for file in files)
    return Layout(tuple(files), names, Annotations.of(found, CLASSES))


def task_of(
    layout: Layout, storage: Path, protocol: DetectionProtocol, **changes: Any
) -> Detection:
    """The task of learning these images from new weights, to be scored on the same ones.

    Args:
      changes: of the settings; `__` stands for a dot.
    """
    root, annotations = prepare_layout(layout, str(storage / "data"), rows_per_row_group=8)
    settings: Settings = override(
        preset("digits"),
        {
            "name": "detector",
            "storage": str(storage),
            "data.train": root,
            "data.test": root,
            "data.global_batch": protocol.batch,
            "views.count": 1,
            "views.small_count": 0,
            "views.photometry": "loader",
            "views.image_px": protocol.scaling.canvas_px,
            "model.encoder": ENCODER,
            "schedule.epochs": 1000,
            "schedule.steps": protocol.steps,
            "training.precision": "fp32",
            "training.log_every_steps": 1,
            "training.probe_every_epochs": 1000,
            "training.checkpoint_every_epochs": 1000,
            "scaling.workers": 0,
            "scaling.accelerator": "cpu",
        }
        | {name.replace("__", "."): value for name, value in changes.items()},
    )
    task = Detection(settings=settings, protocol=protocol)
    task.start.mkdir(parents=True)
    for name in ("train.arrow", "test.arrow"):
        annotations.write(task.start / name)
    return task
