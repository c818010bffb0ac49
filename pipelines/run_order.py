"""What a command is told of a run: a preset or a settings file, a preset of views, settings."""

from dataclasses import dataclass, replace
from typing import Annotated, TypeVar

import tyro

from bt_ray.config import Settings
from bt_ray.method_presets import with_method
from bt_ray.view_presets import ViewPreset, with_views


@dataclass(frozen=True, kw_only=True)
class RunOrder:
    """The settings of a run."""

    views_preset: ViewPreset | None = None
    """Distortions for a kind of images, instead of the preset's own: byol and simclr for
    photographs, small for those of about 32 pixels, medical_gray for radiographs and the like,
    multispectral for images from above in many bands. Whatever --views.… says beside it counts."""
    settings: Annotated[Settings, tyro.conf.arg(name="")]


Order = TypeVar("Order", bound=RunOrder)


def parse_order(
    default: Order, arguments: list[str], *, prog: str, description: str | None
) -> Order:
    """The order that the flags make of `default`.

    What follows the method that they name, and a preset of views, is put in place of the default's,
    and the flags are read again on top of it.
    """

    def read(start: Order) -> Order:
        return tyro.cli(
            type(start), prog=prog, description=description, args=arguments, default=start
        )

    order = read(default)
    start, method = default.settings, order.settings.objective.method
    if method != start.objective.method:
        start = with_method(start, method)
    if order.views_preset is not None:
        start = with_views(start, order.views_preset)
    return order if start == default.settings else read(replace(default, settings=start))
