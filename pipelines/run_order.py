"""What a command is told of a run: a preset or a settings file, a preset of views, settings."""

from dataclasses import dataclass, replace
from typing import Annotated, TypeVar

import tyro

from bt_ray.config import Settings
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

    A preset of views is put in place of the default's, and the flags are read again on top of it.
    """

    def read(start: Order) -> Order:
        return tyro.cli(
            type(start), prog=prog, description=description, args=arguments, default=start
        )

    order = read(default)
    if order.views_preset is None:
        return order
    return read(replace(default, settings=with_views(default.settings, order.views_preset)))
