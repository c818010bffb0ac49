"""Encoders with the views that they are trained on, for sets of images of a size and number."""

from dataclasses import dataclass
from typing import Literal

PHOTO_PX = 96
"""Shorter side from which on images are taken for photos: a ResNet's usual stem halves it twice."""
TINY_PX = 24
"""Shorter side below which a crop of a fifth of the image would hold a few pixels."""
FEW, MANY_SMALL, MANY = 2_000, 20_000, 50_000
"""Images from which on a ResNet-18 is worth its time: on photos, on small images; a ResNet-50."""
_SMALL_PX, _PHOTO_PX = (32, 48, 64), (96, 128, 160, 224)
_TINY_VIEW_PX, _LESSER_PHOTO_PX = 16, 128
_WIDTHS = {"conv4": 512, "conv6": 1024, "resnet18": 2048, "resnet50": 2048}
_PAPERS_WIDTH = 8192


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A network, and the side of the views that it sees."""

    encoder: str
    stem: Literal["imagenet", "cifar"] = "imagenet"
    image_px: int
    width: int
    """Units of each of the projector's three layers."""

    def __str__(self) -> str:
        stem = ", stem for small images" if self.stem == "cifar" else ""
        return f"{self.encoder}{stem}, on views of {self.image_px} pixels"


def recipes(*, side: int, count: int, has_gpu: bool) -> list[Recipe]:
    """What may be trained on these images, the largest first; the last one suits any machine.

    Args:
      side: median of the images' shorter sides, in pixels.
      count: number of images.
    """
    found = _for_photos(side, count, has_gpu) if side >= PHOTO_PX else _for_small(side, count)
    found.append(_recipe("conv4", px=min(_small_px(side), 32)))
    return found


def _for_photos(side: int, count: int, has_gpu: bool) -> list[Recipe]:
    px = max(px for px in _PHOTO_PX if px <= side)
    sides = sorted({px, min(px, _LESSER_PHOTO_PX)}, reverse=True)
    found = []
    if count >= MANY:
        width = _PAPERS_WIDTH if has_gpu else None
        found += [_recipe("resnet50", px=px, width=width)]
    if count >= FEW:
        found += [_recipe("resnet18", px=px) for px in sides]
    return [*found, _recipe("conv6", px=64)]


def _for_small(side: int, count: int) -> list[Recipe]:
    px = _small_px(side)
    found = []
    if side >= TINY_PX and count >= MANY_SMALL:
        found.append(_recipe("resnet18", px=px, stem="cifar"))
    if side >= TINY_PX:
        found.append(_recipe("conv6", px=px))
    return found


def _small_px(side: int) -> int:
    if side < TINY_PX:
        return _TINY_VIEW_PX
    return max((px for px in _SMALL_PX if px <= side), default=_SMALL_PX[0])


def _recipe(
    encoder: str,
    *,
    px: int,
    stem: Literal["imagenet", "cifar"] = "imagenet",
    width: int | None = None,
) -> Recipe:
    width = _WIDTHS[encoder] if width is None else width
    return Recipe(encoder=encoder, stem=stem, image_px=px, width=width)
