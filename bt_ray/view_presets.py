"""Named views: each is a function that returns the distortions that suit a kind of images."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

from bt_ray.config import Settings, ViewSettings

ViewPreset = Literal["byol", "simclr", "small", "medical_gray", "multispectral"]


def byol() -> ViewSettings:
    """Photographs of 100 pixels and more: what the Barlow Twins paper trains with.

    The two views differ: the first is always blurred, the second is solarized at times.

    Source: Zbontar et al. 2021, section 2.1; Grill et al. 2020 (BYOL), appendix B, Table 6.
    """
    return ViewSettings()


def simclr() -> ViewSettings:
    """Photographs, distorted alike in both views: strong colours, and never solarized.

    Jitter of strength 1, where `byol` has half of it; each view is blurred every other time.

    Source: Chen et al. 2020 (SimCLR), appendix A.
    """
    return ViewSettings(
        jitter_brightness=0.8,
        jitter_contrast=0.8,
        jitter_saturation=0.8,
        jitter_hue=0.2,
        blur_probability=(0.5, 0.5),
        solarize_probability=(0.0, 0.0),
    )


def small() -> ViewSettings:
    """Photographs of about 32 pixels, such as CIFAR's: no blur, and no crop below a fifth.

    Blur takes from so few pixels what tells the classes apart, and a smaller crop is a spot.

    Source: the preset `cifar10`; Chen et al. 2020 (SimCLR), appendix B.9, which has no blur either.
    """
    return ViewSettings(crop_area=(0.2, 1.0), blur_probability=(0.0, 0.0))


def medical_gray() -> ViewSettings:
    """Grey images of bodies, such as radiographs, CT and ultrasound; with --data.channels 1.

    A finding may be small, so crops keep 30 % and nothing is blurred. Levels are measures: they
    vary as exposures do, by a fifth, and are never inverted. Patients lie a little askew, but never
    upside down. Where left and right matter (a heart's side), add --views.flip-probability 0.

    Source: rotations by 10 degrees and horizontal flips are those of Sowrirajan et al. 2021
    (MoCo-CXR); the rest is ours, not measured.
    """
    return ViewSettings(
        crop_area=(0.3, 1.0),
        rotation_degrees=10.0,
        jitter_brightness=0.2,
        jitter_contrast=0.2,
        jitter_saturation=0.0,
        jitter_hue=0.0,
        grayscale_probability=0.0,
        blur_probability=(0.0, 0.0),
        solarize_probability=(0.0, 0.0),
    )


def multispectral() -> ViewSettings:
    """Images from above in any number of bands, such as Sentinel-2's; with --data.channels.

    From above no side is up: all eight turns and flips are as likely. What a band has against the
    others tells materials apart, so colours stay; brightness and contrast vary with the sun and the
    air, by a fifth.

    Source: crops and blur are those of Wang et al. 2023 (SSL4EO-S12); the rest is ours, not
    measured.
    """
    return ViewSettings(
        crop_area=(0.2, 1.0),
        vertical_flip_probability=0.5,
        quarter_turns=True,
        jitter_brightness=0.2,
        jitter_contrast=0.2,
        jitter_saturation=0.0,
        jitter_hue=0.0,
        grayscale_probability=0.0,
        blur_probability=(0.5, 0.5),
        solarize_probability=(0.0, 0.0),
    )


VIEW_PRESETS: Mapping[ViewPreset, Callable[[], ViewSettings]] = {
    "byol": byol,
    "simclr": simclr,
    "small": small,
    "medical_gray": medical_gray,
    "multispectral": multispectral,
}


def with_views(settings: Settings, name: ViewPreset) -> Settings:
    """The settings with this preset's distortions; how many views, how large and how made stays."""
    mine = settings.views
    views = replace(
        VIEW_PRESETS[name](),
        count=mine.count,
        image_px=mine.image_px,
        small_count=mine.small_count,
        small_px=mine.small_px,
        small_kind=mine.small_kind,
        small_crop_area=mine.small_crop_area,
        photometry=mine.photometry,
        backend=mine.backend,
    )
    return replace(settings, views=views)
