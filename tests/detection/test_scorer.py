"""A detector's scores on test images, with a detector that finds what the test wants."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from bt_ray.config import Settings, override
from bt_ray.data.preparation.write import write_shards
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.sources import open_source
from bt_ray.detection.annotations import Annotations, Objects
from bt_ray.detection.detections import Detections, gather_detections
from bt_ray.detection.masks import encode_mask
from bt_ray.detection.metrics import coco_scores
from bt_ray.detection.protocols import SMALL, SceneScaling
from bt_ray.detection.scorer import DetectionScorer
from bt_ray.detection.voc_rule import voc_scores
from bt_ray.distributed.collectives import gather_bytes
from bt_ray.model.inputs import shares
from bt_ray.presets import preset
from tests.detection.made import NUM_CLASSES, SIDES, detections_of, draw, objects_of
from tests.workers import run_workers

CPU = torch.device("cpu")
PROTOCOL = replace(SMALL, scaling=SceneScaling(short_px=(72,), test_short_px=72, longest_px=100))
"""Images of 48 × 64 are scaled by 1.5, larger ones down."""
CLASSES = ("a", "b", "c", "d")


class Oracle(nn.Module):
    """Finds in each image, which it knows by its grey level, what it was told to.

    It also keeps the shapes of what it was given, and draws random numbers.
    """

    def __init__(self, settings: Settings, told: Mapping[int, Mapping[str, Any]]) -> None:
        super().__init__()
        self.frozen, self.trained = nn.Dropout().eval(), nn.Dropout()
        self.settings, self.told = settings, told
        self.seen: list[tuple[tuple[int, ...], list[tuple[int, int]]]] = []

    def forward(
        self, levels: Tensor, sizes: list[tuple[int, int]], targets: None
    ) -> list[dict[str, Tensor]]:
        assert not any(part.training for part in self.modules())
        assert not torch.is_grad_enabled()
        torch.rand(3)
        self.seen.append((tuple(levels.shape), sizes))
        return [self._found(*pair) for pair in zip(levels, sizes, strict=True)]

    def _found(self, levels: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
        mean, std = (torch.tensor(part)[:, None, None] for part in shares(self.settings.data))
        grey = (levels * std + mean) * 255
        number = round(float(grey[:, : size[0], : size[1]].mean()))
        assert (grey[:, : size[0], : size[1]] - number).abs().max() < 0.1
        assert grey[:, size[0] :].abs().sum() + grey[:, :, size[1] :].abs().sum() < 1
        told = self.told[number]
        height, width = told["sides"]
        boxes = told["boxes"] * torch.tensor([size[1] / width, size[0] / height] * 2)
        return {**told, "boxes": boxes}


def told_of(found: Detections, sides: tuple[int, int]) -> dict[str, Any]:
    """What an oracle is to find in an image of these sides, boxes in the image's pixels."""
    return {
        "sides": sides,
        "boxes": torch.from_numpy(found.boxes),
        "labels": torch.from_numpy(found.labels) + 1,
        "scores": torch.from_numpy(found.scores),
    }


def prepared(
    folder: Path, images: Mapping[int, Objects], rows_per_row_group: int = 3
) -> tuple[Settings, Annotations, list[int]]:
    """Shards of images whose grey level is their number; annotations and number of each row."""
    (folder / "images").mkdir()
    for number, objects in images.items():
        levels = np.full((objects.height, objects.width, 3), number, np.uint8)
        Image.fromarray(levels).save(folder / "images" / f"{number}.png")
    source = open_source(str(folder / "images"))
    shards = write_shards(source, str(folder / "shards"), rows_per_row_group=rows_per_row_group)
    names = shards.read_columns(["sample_id"])["sample_id"].to_pylist()
    numbers = [int(Path(name).stem) for name in names]
    facts = {"data.train": shards.root, "data.test": shards.root, "training.precision": "fp32"}
    annotations = Annotations.of([images[number] for number in numbers], CLASSES)
    return override(preset("digits"), facts), annotations, numbers


@dataclass(frozen=True)
class Case:
    """Twenty images in seven row groups, and what is found in them, in the order of rows."""

    settings: Settings
    annotations: Annotations
    oracle: Oracle
    found: list[Detections]
    present: list[Objects]

    def scorer(self, rank: int = 0, world_size: int = 1) -> DetectionScorer:
        return DetectionScorer(self.settings, PROTOCOL, self.annotations, CPU, rank, world_size)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    found, present = draw(3, num_images=20)
    present = [replace(objects, masks=None) for objects in present]
    settings, annotations, numbers = prepared(tmp_path, dict(enumerate(present)))
    told = {number: told_of(one, SIDES) for number, one in enumerate(found)}
    return Case(
        settings=settings,
        annotations=annotations,
        oracle=Oracle(settings, told),
        found=[clipped(found[number]) for number in numbers],
        present=[present[number] for number in numbers],
    )


def expected(found: list[Detections], present: list[Objects]) -> dict[str, float]:
    points = voc_scores(found, present, NUM_CLASSES, year=2007)
    return {
        **{f"test/{k}": v for k, v in coco_scores(found, present, NUM_CLASSES).items()},
        "test/voc_ap50": voc_scores(found, present, NUM_CLASSES, year=2010)[0],
        "test/voc07_ap": float(np.mean(points)),
        "test/voc07_ap50": points[0],
        "test/voc07_ap75": points[5],
    }


def clipped(found: Detections) -> Detections:
    height, width = SIDES
    return replace(found, boxes=found.boxes.clip(0, [width, height, width, height]))


def test_scores_are_those_of_all_images_in_their_own_pixels(case: Case) -> None:
    oracle = case.oracle.train()
    oracle.frozen.eval()
    before = torch.get_rng_state()
    measures = case.scorer()(oracle).measures
    assert measures == pytest.approx(expected(case.found, case.present), abs=1e-6)
    assert 0.1 < measures["test/ap"] < measures["test/ap50"] < 0.95
    assert torch.equal(torch.get_rng_state(), before)
    assert oracle.training
    assert oracle.trained.training
    assert not oracle.frozen.training
    assert sum(len(sizes) for _, sizes in oracle.seen) == 20
    assert {shape[1:] for shape, _ in oracle.seen} == {(3, 96, 96)}
    assert {size for _, sizes in oracle.seen for size in sizes} == {(72, 96)}


def _score(rank: int, world_size: int, case: Case, rows: int | None) -> dict[str, float]:
    with pytest.MonkeyPatch.context() as patch:
        if rows is not None:
            only_first(patch, rows)
        return case.scorer(rank, world_size)(case.oracle).measures


def only_first(patch: pytest.MonkeyPatch, rows: int) -> None:
    """As if only so many rows could be decoded."""
    read = ShardSet.read

    def damaged(shards: ShardSet, groups: NDArray[np.int64]) -> pa.Table:
        table = read(shards, groups)
        images = [
            image if row < rows else b"no image"
            for image, row in zip(table["image"].to_pylist(), table["row"].to_pylist(), strict=True)
        ]
        column = pa.array(images, pa.large_binary())
        return table.set_column(table.column_names.index("image"), "image", column)

    patch.setattr(ShardSet, "read", damaged)


@pytest.mark.parametrize("rows", [None, 4])
def test_any_number_of_workers_finds_the_same(case: Case, rows: int | None) -> None:
    """Also where a worker has no image that can be decoded."""
    alone = _score(0, 1, case, rows)
    assert alone["test/ap50"] > 0
    for measures in run_workers(3, _score, case, rows):
        assert measures == alone


def test_images_that_cannot_be_decoded_are_left_out_with_their_objects(
    case: Case, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    only_first(monkeypatch, 11)
    with caplog.at_level(logging.WARNING):
        measures = case.scorer()(case.oracle).measures
    assert "9 of 20 images cannot be decoded" in caplog.text
    assert measures == pytest.approx(expected(case.found[:11], case.present[:11]), abs=1e-6)


def test_nothing_found_scores_nothing(case: Case) -> None:
    nothing = told_of(detections_of([], [], []), SIDES) | {"masks": torch.empty(0, 1, 28, 28)}
    oracle = Oracle(case.settings, dict.fromkeys(range(20), nothing))
    _, present = draw(3, num_images=1)
    annotations = Annotations.of(present * 20, CLASSES)
    scorer = replace(case.scorer(), protocol=replace(PROTOCOL, masks=True), annotations=annotations)
    measures = scorer(oracle).measures
    assert len(measures) == 10
    assert set(measures.values()) == {0}


def test_images_of_like_size_are_a_batch(tmp_path: Path) -> None:
    """Of one row group: never more than four, and none that would be padded for another one."""
    sides = [(48, 64)] * 4 + [(64, 48), (300, 400), (60, 300), (300, 60)]
    present = {k: objects_of([[1, 2, 30, 40]], [0], sides=s) for k, s in enumerate(sides)}
    settings, annotations, _ = prepared(tmp_path, present, rows_per_row_group=16)
    told = {k: told_of(detections_of([[1, 2, 30, 40]], [0], [0.9]), s) for k, s in enumerate(sides)}
    oracle = Oracle(settings, told)
    measures = DetectionScorer(settings, PROTOCOL, annotations, CPU)(oracle).measures
    assert measures["test/ap"] == pytest.approx(1)
    assert sorted(shape for shape, _ in oracle.seen) == [
        (1, 3, 32, 128), (1, 3, 128, 32), (2, 3, 96, 96), (4, 3, 96, 96),
    ]  # fmt: skip
    sizes = [size for _, of_batch in oracle.seen for size in of_batch]
    assert sorted(sizes) == [(20, 100), *[(72, 96)] * 5, (96, 72), (100, 20)]


def test_masks_are_pasted_into_the_image(tmp_path: Path) -> None:
    """The left half of each box is the object; boxes alone, or the right half, would not do."""
    sides, box = (120, 160), (20, 30, 100, 90)
    mask = np.zeros(sides, np.uint8)
    mask[box[1] : box[3], box[0] : (box[0] + box[2]) // 2] = 1
    present = {0: objects_of([box], [1], masks=(encode_mask(mask),), sides=sides)}
    settings, annotations, _ = prepared(tmp_path, present)
    told = told_of(detections_of([box], [1], [0.9]), sides)
    protocol = replace(PROTOCOL, masks=True)
    scores = {}
    for half in ("left", "right"):
        cells = torch.zeros(1, 1, 28, 28)
        cells[..., slice(0, 14) if half == "left" else slice(14, 28)] = 1
        oracle = Oracle(settings, {0: {**told, "masks": cells}})
        scores[half] = DetectionScorer(settings, protocol, annotations, CPU)(oracle).measures
    assert scores["left"]["test/mask_ap"] > 0.85
    assert scores["right"]["test/mask_ap50"] == 0
    assert scores["left"]["test/ap"] == scores["right"]["test/ap"] == pytest.approx(1)


def _gather(rank: int, world_size: int) -> tuple[list[bytes], list[bytes], dict[int, Detections]]:
    """Worker 1 has nothing; worker 2 has nothing in one of its images."""
    parts = [[b"one", b""], [], [bytes(range(256))]][rank]
    mine = {
        0: {5: detections_of([[0, 0, 1, 1]] * 2, [1, 2], [0.5, 0.25], (b"x", b"yy"))},
        1: {},
        2: {7: detections_of([], [], [], ()), 2: detections_of([[3, 3, 4, 4]], [0], [1.0])},
    }[rank]
    return gather_bytes(parts, CPU), gather_bytes([], CPU), gather_detections(mine, CPU)


def test_every_worker_gets_what_all_have() -> None:
    for parts, none, found in run_workers(3, _gather):
        assert parts == [b"one", b"", bytes(range(256))]
        assert none == []
        assert list(found) == [2, 5, 7]
        assert found[2].masks is None
        assert found[5].masks == (b"x", b"yy")
        assert found[7].masks == ()
        assert found[5].scores.tolist() == [0.5, 0.25]
        assert found[5].labels.tolist() == [1, 2]
        assert found[2].boxes.tolist() == [[3, 3, 4, 4]]
        assert found[7].boxes.shape == (0, 4)
