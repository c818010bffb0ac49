"""Scenes: what is drawn, what is applied, and what the stream makes of both."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from bt_ray.config import Settings, override
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.batches import Batch, local_batches
from bt_ray.data.stream.plan import build_plan
from bt_ray.data.views.reference import decode
from bt_ray.detection.annotations import Annotations
from bt_ray.detection.prepare import prepare_layout
from bt_ray.detection.protocols import COCO, VOC, DetectionProtocol, SceneScaling
from bt_ray.detection.scenes import (
    SceneMaker,
    SceneParameters,
    apply_scene,
    draw_scenes,
    scaled_sizes,
    still_scenes,
)
from bt_ray.detection.targets import build_target
from bt_ray.detection.voc import read_voc_folder
from bt_ray.errors import DataError
from bt_ray.presets import preset
from tests.conftest import shared_zip
from tests.data.stream.test_broken_images import break_images
from tests.detection.layouts import COLOUR, write_voc_folder
from tests.detection.test_prepare import images

SCALING = SceneScaling(short_px=(24, 32, 40), test_short_px=32, longest_px=60)
CPU = torch.device("cpu")
BATCH, STEPS = 8, 11


def draw(samples: Sequence[int], epoch: int = 0, seed: int = 0) -> SceneParameters:
    sizes = np.random.default_rng(9).integers(100, 700, (2, 1000))[:, samples]
    return draw_scenes(
        VOC.scaling, seed=seed, epoch=epoch, samples=np.array(samples),
        widths=sizes[0], heights=sizes[1],
    )  # fmt: skip


def columns(drawn: SceneParameters) -> NDArray[np.int64]:
    return np.stack([drawn.widths, drawn.heights, drawn.flip])


def test_a_scene_is_drawn_by_seed_epoch_and_sample_alone() -> None:
    whole = columns(draw(range(1000)))
    some = [7, 903, 7, 11]
    np.testing.assert_array_equal(columns(draw(some)), whole[:, some])
    for other in (draw(range(1000), epoch=1), draw(range(1000), seed=1)):
        assert (columns(other) != whole).any(axis=0).mean() > 0.8


def test_sides_and_flips_are_drawn_evenly() -> None:
    count = 20_000
    drawn = draw_scenes(
        SCALING, seed=3, epoch=5, samples=np.arange(count),
        widths=np.full(count, 100), heights=np.full(count, 80),
    )  # fmt: skip
    for short in SCALING.short_px:
        assert abs((drawn.heights == short).mean() - 1 / 3) < 0.02
    assert (np.abs(drawn.widths - drawn.heights * 1.25) <= 0.5).all()
    assert abs(drawn.flip.mean() - 0.5) < 0.02
    for short in SCALING.short_px:
        assert abs(drawn.flip[drawn.heights == short].mean() - 0.5) < 0.04
    still = still_scenes(SCALING, np.array([100, 20, 400]), np.array([80, 60, 10]))
    assert columns(still).tolist() == [[40, 20, 60], [32, 60, 2], [0, 0, 0]]


@pytest.mark.parametrize("protocol", [VOC, COCO])
def test_sizes_are_those_of_detectron2(protocol: DetectionProtocol) -> None:
    """`ResizeShortestEdge`: the shorter side, unless the longer one becomes too long."""
    random = np.random.default_rng(0)
    widths, heights = random.integers(20, 2000, (2, 500))
    for short in (*protocol.scaling.short_px, protocol.scaling.test_short_px):
        longest = protocol.scaling.longest_px
        got = np.stack(scaled_sizes(widths, heights, np.full(500, short), longest), 1)
        for (width, height), theirs in zip(got, zip(widths, heights, strict=True), strict=True):
            scale = short / min(theirs)
            sides = [scale * side for side in theirs]
            if max(sides) > longest:
                sides = [side * longest / max(sides) for side in sides]
            expected = [max(1, int(side + 0.5)) for side in sides]
            assert abs(width - expected[0]) <= 1
            assert abs(height - expected[1]) <= 1
        assert got.max() <= longest <= protocol.scaling.canvas_px
        assert protocol.scaling.canvas_px % 32 == 0


@pytest.mark.parametrize("size", [(64, 48), (333, 250), (500, 375), (700, 525)])
@pytest.mark.parametrize("flip", [False, True])
def test_an_image_is_resized_as_by_pillow(
    size: tuple[int, int], flip: bool, tmp_path: Path
) -> None:
    """A photograph, smaller and larger; the rest of the canvas is black."""
    archive = shared_zip("imagenet-sample.zip")
    file = sorted(name for name in archive.namelist() if name.endswith("JPEG"))[4]
    image = decode(archive.read(file))
    parameters = SceneParameters(
        widths=np.array([0, size[0]]), heights=np.array([0, size[1]]), flip=np.array([False, flip])
    )
    canvas = np.full((3, 704, 704), 99, np.uint8)
    apply_scene(np.array(image), parameters, 1, canvas)
    expected = np.asarray(image.resize(size, Image.Resampling.BILINEAR)).astype(int)
    got = canvas[:, : size[1], : size[0]].transpose(1, 2, 0).astype(int)
    assert np.abs(got - (expected[:, ::-1] if flip else expected)).mean() < 0.5
    canvas[:, : size[1], : size[0]] = 0
    assert not canvas.any()


@pytest.mark.parametrize(("channels", "dtype"), [(1, "uint8"), (3, "uint16"), (5, "uint16")])
def test_levels_of_other_kinds(channels: int, dtype: str) -> None:
    """Of a ramp, which stays one; the highest level is not cut off."""
    high = np.iinfo(dtype).max
    ramp = np.linspace(0, high, 64).round().astype(dtype)
    image = np.repeat(np.repeat(ramp[None, :, None], 30, 0), channels, 2)
    parameters = SceneParameters(
        widths=np.array([32]), heights=np.array([15]), flip=np.array([True])
    )
    canvas = np.ones((channels, 32, 32), dtype)
    apply_scene(np.ascontiguousarray(image), parameters, 0, canvas)
    expected = (np.arange(32)[::-1] * 2 + 0.5) * high / 63
    for plane in canvas:
        np.testing.assert_allclose(plane[:15], np.tile(expected, (15, 1)), atol=high / 80)
        assert not plane[15:].any()


@pytest.fixture
def prepared(tmp_path: Path) -> tuple[Settings, Annotations]:
    layout = read_voc_folder(write_voc_folder(tmp_path / "voc", images(40)), ["train"])
    root, annotations = prepare_layout(layout, str(tmp_path), rows_per_row_group=8)
    settings = override(
        preset("digits"),
        {
            "data.train": root,
            "data.test": None,
            "data.global_batch": BATCH,
            "views.count": 1,
            "views.small_count": 0,
            "views.photometry": "loader",
            "views.image_px": SCALING.canvas_px,
        },
    )
    return settings, annotations


def stream(settings: Settings, start: int = 0, rank: int = 0, workers: int = 1) -> list[Batch]:
    return list(local_batches(
        settings, ShardSet.open(settings.data.train), start=start, stop=STEPS, device=CPU,
        rank=rank, world_size=workers, make=SceneMaker(SCALING),
    ))  # fmt: skip


def assert_boxes_fit(batch: Batch, settings: Settings, annotations: Annotations) -> None:
    """What a worker draws again for a batch's samples is where the rectangles are."""
    steps_per_epoch = build_plan(
        settings, ShardSet.open(settings.data.train).manifest
    ).steps_per_epoch
    objects = [annotations[sample] for sample in batch.samples]
    drawn = draw_scenes(
        SCALING,
        seed=settings.training.seed,
        epoch=batch.step // steps_per_epoch,
        samples=batch.samples,
        widths=np.array([found.width for found in objects]),
        heights=np.array([found.height for found in objects]),
    )
    [canvases] = batch.views
    px = SCALING.canvas_px
    assert canvases.shape == (len(objects), 3, px, px)
    for row, (canvas, found) in enumerate(zip(canvases.numpy(), objects, strict=True)):
        left, top, right, bottom = build_target(found, drawn, row)["boxes"][0].tolist()
        red = np.where(canvas[0] > canvas[2], canvas[0].astype(float), 0) / COLOUR[0]
        middle = [(red.sum(axis=axis) * (np.arange(px) + 0.5)).sum() / red.sum() for axis in (0, 1)]
        np.testing.assert_allclose(middle, [(left + right) / 2, (top + bottom) / 2], atol=0.8)
        assert canvas[:, : drawn.heights[row], : drawn.widths[row]].any(axis=0).all()
        assert not canvas[:, drawn.heights[row] :].any()
        assert not canvas[:, :, drawn.widths[row] :].any()


def test_boxes_fit_in_every_epoch(prepared: tuple[Settings, Annotations]) -> None:
    settings, annotations = prepared
    batches = stream(settings)
    assert [batch.step for batch in batches] == list(range(STEPS))
    for batch in batches:
        assert_boxes_fit(batch, settings, annotations)
    assert len({batch.digest for batch in batches}) == STEPS


@pytest.mark.parametrize("backend", ["fast", "reference"])
@pytest.mark.parametrize("start", [0, 6])
def test_workers_and_restarts_see_the_same_scenes(
    prepared: tuple[Settings, Annotations], start: int, backend: str
) -> None:
    settings = override(prepared[0], {"views.backend": backend})
    alone = stream(settings)[start:]
    parts = [stream(settings, start, rank, 2) for rank in range(2)]
    for step, expected in enumerate(alone):
        got = [part[step] for part in parts]
        assert torch.equal(torch.cat([batch.views[0] for batch in got]), expected.views[0])
        samples = np.concatenate([batch.samples for batch in got])
        np.testing.assert_array_equal(samples, expected.samples)
        assert sum(batch.digest for batch in got) % 2**64 == expected.digest


def test_what_stands_in_for_a_broken_image_brings_its_own_size_and_boxes(
    prepared: tuple[Settings, Annotations],
) -> None:
    settings, annotations = prepared
    whole = stream(settings)
    break_images(settings.data.train, (2, 21))
    replaced = set[int]()
    for got, intact in zip(stream(settings), whole, strict=True):
        replaced |= set(got.replaced)
        assert_boxes_fit(got, settings, annotations)
        changed = got.samples != intact.samples
        assert changed.sum() == len(got.replaced)
        same = (got.views[0] == intact.views[0]).flatten(1).all(dim=1).numpy()
        np.testing.assert_array_equal(same, ~changed)
        assert (got.digest == intact.digest) == (not got.replaced)
    assert replaced == {2, 21}
    parts = [stream(settings, 4, rank, 2) for rank in range(2)]
    for step, expected in enumerate(stream(settings)[4:]):
        got_all = torch.cat([part[step].views[0] for part in parts])
        assert torch.equal(got_all, expected.views[0])


def test_nothing_readable_in_a_window_is_an_error(prepared: tuple[Settings, Annotations]) -> None:
    settings, _ = prepared
    break_images(settings.data.train, tuple(range(40)))
    with pytest.raises(DataError, match=r"The image of row \d+ cannot be decoded"):
        stream(settings)
