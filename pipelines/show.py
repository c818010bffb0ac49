"""Shows what training sees: `python -m pipelines.show views PRESET [--section.field value …]`."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bt_ray.config import Settings
from bt_ray.errors import SettingsError
from bt_ray.presets import PRESETS, starting_point
from pipelines.run_order import RunOrder, parse_order
from pipelines.terminal import command, console, finish, guarded, warn

if TYPE_CHECKING:
    from collections.abc import Iterable

_USAGE = (
    f"usage: python -m pipelines.show views {{{','.join(PRESETS)}}} [--out FILE] "
    "[--views-preset NAME] [--section.field value …]\n"
    "       python -m pipelines.show views FOLDER/settings.json [--section.field value …]\n"
    "       python -m pipelines.show views PRESET --help"
)


@dataclass(frozen=True, kw_only=True)
class ShowViews(RunOrder):
    """Which views to show."""

    out: Path = Path("views.png")
    """Picture that is written, a PNG."""
    images: int = 6
    """How many images, one row each."""
    pairs: int = 3
    """How many pairs of views of each: those of the first epochs."""

    def __post_init__(self) -> None:
        for name in ("images", "pairs"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name}={getattr(self, name)} must be at least 1.")


@command
def main() -> None:
    """Parses the command line, writes the picture, says where it is."""
    arguments = sys.argv[1:]
    if len(arguments) < 2 or arguments[0] != "views" or arguments[1].startswith("-"):
        console.print(_USAGE, soft_wrap=True)
        sys.exit(0 if arguments[:1] in (["--help"], ["-h"]) else 2)
    order = guarded(
        lambda: parse_order(
            ShowViews(settings=starting_point(arguments[1])),
            arguments[2:],
            prog=f"python -m pipelines.show views {arguments[1]}",
            description=__doc__,
        )
    )
    finish(guarded(lambda: show_views(order)))


def show_views(order: ShowViews) -> dict[str, Any]:
    """Writes the picture; nothing else is written, and no shards are needed."""
    from bt_ray.config import idle_colours
    from bt_ray.training.sheet import write_sheet

    if (idle := idle_colours(order.settings)) is not None:
        warn(idle)
    images = read_images(order.settings)
    shown = write_sheet(images, order.settings, order.out, count=order.images, pairs=order.pairs)
    console.print(f"{shown} images and their views are in {order.out}.", soft_wrap=True)
    return {
        "run_id": None,
        "steps": None,
        "images_per_s": None,
        "scores": {},
        "model_version": None,
        "paths": {"views": str(order.out)},
        "images": shown,
    }


def read_images(settings: Settings) -> "Iterable[tuple[str, bytes]]":
    """Names and encoded images of `data.train`, mixed, as long as more are asked for."""
    from bt_ray.data.preparation.prepare import describe_data
    from bt_ray.forecast.sample import spread
    from bt_ray.training.run_folder import locate_storage

    alone = replace(settings, data=replace(settings.data, test=None))
    described, _ = describe_data(locate_storage(alone))
    return ((image.sample_id, image.encoded) for image in spread(described))


if __name__ == "__main__":
    main()
