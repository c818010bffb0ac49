"""The sheet of a run's views: what its images look like, and what training sees of them."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from bt_ray.config import Settings, ViewSettings
from bt_ray.config.data import COLOURS
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.examples import Example, ExampleView, make_examples
from bt_ray.errors import DataError
from bt_ray.figures.views import Row, draw_views, join_views

SHEET = "views.png"
IMAGES, PAIRS = 6, 3
"""How many images a sheet shows, and pairs of views of each, unless it is told otherwise."""
_LETTERS = "AB"
_LONGEST_NAME = 60


def write_sheet(
    images: Iterable[tuple[str, bytes]],
    settings: Settings,
    file: Path,
    *,
    count: int = IMAGES,
    pairs: int = PAIRS,
) -> int:
    """Writes a PNG of images and pairs of their views; how many images it shows.

    Args:
      images: names and encoded images, the first rows of the data set; those that cannot be
        decoded are passed over.
    Raises: DataError if none can be decoded.
    """
    examples = make_examples(images, settings, count=count, epochs=pairs)
    if not examples:
        raise DataError("None of the images looked at can be decoded: there is nothing to show.")
    rows = [_row(example, pairs) for example in examples]
    draw_views(
        rows,
        headings=["image", *_headings(settings.views, pairs)],
        title=f"{settings.name}: {_sizes(settings.views)}",
        caption=describe_views(settings),
        file=file,
    )
    return len(rows)


def _row(example: Example, epochs: int) -> Row:
    """The image, and of each epoch its views and, in one picture, its smaller ones."""
    pictures, words = [example.image], [example.name[-_LONGEST_NAME:]]
    for epoch in range(epochs):
        views, small = (_of_epoch(every, epoch, epochs) for every in (example.views, example.small))
        pictures += [view.levels for view in views]
        words += [", ".join(view.words) for view in views]
        if small:
            pictures.append(join_views([view.levels for view in small]))
            words.append(", ".join(view.words[0] for view in small))
    return Row(pictures=tuple(pictures), words=tuple(words))


def _of_epoch(views: Sequence[ExampleView], epoch: int, epochs: int) -> Sequence[ExampleView]:
    """Those of one epoch, of the same number in each."""
    count = len(views) // epochs
    return views[epoch * count : (epoch + 1) * count]


def _headings(views: ViewSettings, epochs: int) -> list[str]:
    """Of the columns after the image's."""
    names = [*_LETTERS[: views.count], *(["smaller"] if views.small_count else [])]
    return [f"{name}, epoch {epoch}" for epoch in range(1, epochs + 1) for name in names]


def _sizes(views: ViewSettings) -> str:
    """How large views are, in words."""
    smaller = f", {views.small_count} smaller ones of {views.small_px}"
    return f"views of {views.image_px} pixels" + (smaller if views.small_count else "")


def write_sheet_of_shards(root: str, settings: Settings, file: Path) -> None:
    """Writes the sheet of the first images of these shards.

    Raises: DataError if they cannot be read.
    """
    group = ShardSet.open(root).read(np.array([0])).slice(0, 2 * IMAGES)
    names, encoded = group["sample_id"].to_pylist(), group["image"]
    write_sheet(
        ((name, image.as_py()) for name, image in zip(names, encoded, strict=True)), settings, file
    )


def describe_views(settings: Settings) -> str:
    """What may be drawn for a view, by the settings, in a paragraph."""
    views = settings.views
    each = [
        f"crop of {views.crop_area[0]:.0%} to {views.crop_area[1]:.0%}"
        + (f", at least {views.crop_min_px} px" if views.crop_min_px else ""),
        _share("flip", views.flip_probability),
        _share("vertical flip", views.vertical_flip_probability),
        "quarter turns" if views.quarter_turns else "",
        f"rotated by up to {views.rotation_degrees:g}°" if views.rotation_degrees else "",
        _jitter(settings),
        _share("grey", views.grayscale_probability) if settings.data.channels == COLOURS else "",
    ]
    of_each = [
        ", ".join(
            filter(
                None,
                [
                    _share("blur", views.blur_probability[view]),
                    _share("solarized", views.solarize_probability[view]),
                ],
            )
        )
        or "neither blur nor solarization"
        for view in range(views.count)
    ]
    told = " · ".join(f"{x}: {words}" for x, words in zip(_LETTERS, of_each, strict=False))
    return f"Every view: {', '.join(filter(None, each))}. {told}.{_describe_small(views)}"


def _describe_small(views: ViewSettings) -> str:
    """What smaller views are, in a sentence; empty if there are none."""
    if not views.small_count:
        return ""
    area = f"{views.small_crop_area[0]:.0%} to {views.small_crop_area[1]:.0%}"
    ways = {
        "crops": f"crops of {area}",
        "jigsaw": f"patches of one crop of {area}, in a random order, flipped and turned alike",
    }
    return (
        f" Smaller ones: {ways[views.small_kind]}; blur and solarization in turn as for A and "
        "for B."
    )


def _jitter(settings: Settings) -> str:
    views = settings.views
    amounts = {"brightness": views.jitter_brightness, "contrast": views.jitter_contrast}
    if settings.data.channels == COLOURS:
        amounts |= {"saturation": views.jitter_saturation, "hue": views.jitter_hue}
    told = ", ".join(f"{name} {amount:g}" for name, amount in amounts.items() if amount)
    probability = views.jitter_probability if told else 0.0
    return _share("jitter", probability) + (f" ({told})" if probability else "")


def _share(name: str, probability: float) -> str:
    return f"{name} {probability:.0%}" if probability else ""
