"""The images that a plan reckons with: those named, or ImageNet's."""

from dataclasses import dataclass

from bt_ray.config import Settings
from bt_ray.data.preparation.prepare import describe_data
from bt_ray.data.stream.plan import build_plan
from bt_ray.errors import SettingsError
from bt_ray.forecast.rates import IMAGENET_IMAGE_BYTES, IMAGENET_IMAGES


@dataclass(frozen=True, kw_only=True)
class Images:
    """How many there are, how large on average, and how many steps an epoch has."""

    count: int
    mean_bytes: float
    steps_per_epoch: int
    are_assumed: bool


def named_images(settings: Settings) -> Images:
    """Those of `data.train`, counted without writing anything.

    Raises: DataError if there are none, or fewer than a step takes.
    """
    train, _ = describe_data(settings)
    manifest = train.manifest
    return Images(
        count=manifest.num_rows,
        mean_bytes=manifest.num_bytes / manifest.num_rows,
        steps_per_epoch=build_plan(settings, manifest).steps_per_epoch,
        are_assumed=False,
    )


def imagenet_images(settings: Settings) -> Images:
    """ImageNet's, which nobody has to have.

    Raises: SettingsError if a step takes more.
    """
    steps = IMAGENET_IMAGES // settings.data.global_batch
    if steps == 0:
        raise SettingsError(
            f"data.global_batch={settings.data.global_batch} is more than ImageNet's "
            f"{IMAGENET_IMAGES:,} images, which are assumed without data.train."
        )
    return Images(
        count=IMAGENET_IMAGES,
        mean_bytes=IMAGENET_IMAGE_BYTES,
        steps_per_epoch=steps,
        are_assumed=True,
    )
