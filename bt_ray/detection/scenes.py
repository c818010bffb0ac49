"""Whole images for a detector: drawn, then applied, as views are.

A scene is an image brought to one of some sizes, perhaps flipped, and padded to the canvas at the
right and at the bottom. What was drawn for it can be drawn again wherever its boxes are needed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bt_ray.config import Settings
from bt_ray.data.stream.decode import Columns, operations
from bt_ray.data.stream.spares import Spare
from bt_ray.data.views.draw import mix, uniforms
from bt_ray.detection.protocols import SceneScaling
from bt_ray.errors import DataError

Levels = NDArray[Any]
"""Levels of an image's channels, uint8 or uint16."""
_SCENES = 97
"""The place of scenes among what is drawn of an image."""


@dataclass(frozen=True, kw_only=True)
class SceneParameters:
    """Of each of n images: its sides after scaling, in pixels, and whether it is flipped."""

    widths: NDArray[np.int64]
    heights: NDArray[np.int64]
    flip: NDArray[np.bool_]


def draw_scenes(
    scaling: SceneScaling,
    *,
    seed: int,
    epoch: int,
    samples: NDArray[np.int64],
    widths: NDArray[np.int64],
    heights: NDArray[np.int64],
) -> SceneParameters:
    """The parameters of each image's scene in training: a function of seed, epoch and sample.

    Args:
      samples: row indices in the data set, (n,).
      widths, heights: size of each image in pixels, (n,).
    """
    u = uniforms(seed, epoch, _SCENES, samples=samples, count=2)
    short = np.array(scaling.short_px)[(u[:, 0] * len(scaling.short_px)).astype(np.int64)]
    scaled = scaled_sizes(widths, heights, short, scaling.longest_px)
    return SceneParameters(
        widths=scaled[0], heights=scaled[1], flip=u[:, 1] < scaling.flip_probability
    )


def still_scenes(
    scaling: SceneScaling, widths: NDArray[np.int64], heights: NDArray[np.int64]
) -> SceneParameters:
    """The parameters of each image's scene in scoring: of the one size, not flipped."""
    short = np.full(len(widths), scaling.test_short_px)
    scaled = scaled_sizes(widths, heights, short, scaling.longest_px)
    return SceneParameters(widths=scaled[0], heights=scaled[1], flip=np.zeros(len(widths), bool))


def scaled_sizes(
    widths: NDArray[np.int64],
    heights: NDArray[np.int64],
    short_px: NDArray[np.int64],
    longest_px: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Width and height whose shorter side is `short_px`, or less where the longer one is too long.

    All args but the last have one entry an image.
    """
    shorter, longer = np.minimum(widths, heights), np.maximum(widths, heights)
    scale = np.minimum(short_px / shorter, longest_px / longer)
    rounded = [np.maximum(1, np.rint(side * scale)).astype(np.int64) for side in (widths, heights)]
    return rounded[0], rounded[1]


def apply_scene(image: Levels, parameters: SceneParameters, row: int, canvas: Levels) -> None:
    """Writes the scene of an image (h, w, c) into its canvas (c, px, px), which it fills.

    Resizing is bilinear and antialiased, as Pillow's.
    """
    width, height = int(parameters.widths[row]), int(parameters.heights[row])
    levels = _resize(image, width, height)
    canvas[:, :height, :width] = levels[:, :, ::-1] if parameters.flip[row] else levels
    canvas[:, height:] = 0
    canvas[:, :, width:] = 0


def _resize(image: Levels, width: int, height: int) -> Levels:
    """The image (h, w, c) as (c, height, width)."""
    import torch  # here: a loader's process need not wait for it before its first image
    from torch.nn.functional import interpolate

    planes = torch.from_numpy(image)[None].permute(0, 3, 1, 2)
    if image.dtype == np.uint8:
        scaled = interpolate(planes, (height, width), mode="bilinear", antialias=True)
        return np.asarray(scaled[0])
    scaled = interpolate(planes.float(), (height, width), mode="bilinear", antialias=True)
    return np.asarray(scaled[0].round()).astype(image.dtype)


@dataclass(frozen=True)
class SceneMaker:
    """Makes a step's scenes in place of its views (`stream.decode.MakeViews`)."""

    scaling: SceneScaling

    def __call__(
        self,
        table: pa.Table,
        settings: Settings,
        steps_per_epoch: int,
        spares: Callable[[int, int], Iterator[Spare]] | None = None,
    ) -> Columns:
        """The columns of `make_views`, whose one view, (n, 3, px, px), is the canvas.

        Raises: DataError if an image cannot be decoded, nor its spares.
        """
        names = ("row", "width", "height", "step", "slot")
        columns: Columns = {name: table[name].to_numpy().copy() for name in names}
        columns["sample"] = columns["row"].copy()
        decode, _, _ = operations(settings)
        images = []
        for i, encoded in enumerate(table["image"]):
            stand_ins = partial(
                spares or _no_spares, int(columns["step"][i]), int(columns["slot"][i])
            )
            image, spare = _decoded(encoded.as_buffer(), decode, stand_ins, columns["row"][i])
            if spare is not None:
                for name in ("sample", "width", "height"):
                    columns[name][i] = getattr(spare, name)
            images.append(np.require(image, requirements=["C", "W"]))
        drawn = draw_scenes(
            self.scaling,
            seed=settings.training.seed,
            epoch=int(columns["step"][0]) // steps_per_epoch,
            samples=columns["sample"],
            widths=columns["width"],
            heights=columns["height"],
        )
        px = self.scaling.canvas_px
        shape = (len(images), settings.data.channels, px, px)
        canvases = np.empty(shape, settings.data.pixels.dtype)
        for i, image in enumerate(images):
            apply_scene(image, drawn, i, canvases[i])
        columns["view_a"] = canvases
        columns["digest"] = _digest(columns, drawn)
        return columns


def _no_spares(step: int, slot: int) -> Iterator[Spare]:
    return iter(())


def _decoded(
    encoded: Any,
    decode: Callable[[Any], Any],
    spares: Callable[[], Iterator[Spare]],
    row: int,
) -> tuple[Any, Spare | None]:
    """The image, or the first spare that can be decoded, and which one that is.

    Raises: DataError if there is none.
    """
    try:
        return decode(encoded), None
    except OSError as fault:
        for spare in spares():
            try:
                return decode(spare.encoded), spare
            except OSError:
                continue
        raise DataError(f"The image of row {row} cannot be decoded ({fault}).") from fault


def _digest(columns: Columns, drawn: SceneParameters) -> NDArray[np.uint64]:
    """A number for each row: of its step, slot, sample and scene."""
    state = np.zeros(len(drawn.flip), np.uint64)
    placed = [columns[name] for name in ("step", "slot", "sample")]
    for column in (*placed, drawn.widths, drawn.heights, drawn.flip):
        state = mix(state ^ column.astype(np.int64).astype(np.uint64))
    return state
