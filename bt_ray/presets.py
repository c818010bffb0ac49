"""Named runs: each preset is a function that returns a complete settings tree."""

from dataclasses import replace
from pathlib import Path

from bt_ray.config import (
    DataSettings,
    ModelSettings,
    OptimizerSettings,
    ProbeSettings,
    ScalingSettings,
    ScheduleSettings,
    Settings,
    TrainingSettings,
    ViewSettings,
    from_json,
)
from bt_ray.errors import SettingsError


def digits() -> Settings:
    """1,437 handwritten digits of 8×8 pixels, embedded in scikit-learn; the demo.

    The views keep a digit readable: a mild crop, no flip, no blur.

    Command: python -m pipelines.pretrain digits
    Hardware: two CPU cores
    Time: about a minute
    Score: kNN 92.5 % untrained (93.1 % in bf16), 97.5 to 97.8 % trained
    Measured: by us
    """
    return Settings(
        name="digits",
        data=DataSettings(
            train="digits", test="digits:test", global_batch=256, rows_per_row_group=64
        ),
        views=ViewSettings(
            image_px=16,
            crop_area=(0.5, 1.0),
            flip_probability=0.0,
            jitter_saturation=0.0,
            jitter_hue=0.0,
            grayscale_probability=0.0,
            blur_probability=(0.0, 0.0),
            solarize_probability=(0.0, 0.0),
        ),
        model=ModelSettings(encoder="conv4", projector_widths=(512, 512, 512)),
        optimizer=OptimizerSettings(trust_coefficient=0.02),
        schedule=ScheduleSettings(epochs=30, warmup_epochs=2),
        training=TrainingSettings(probe_every_epochs=5, checkpoint_every_epochs=5),
        probe=ProbeSettings(neighbors=20),
        scaling=ScalingSettings(workers=2, cpus_per_worker=0.5),
    )


def cifar10() -> Settings:
    """CIFAR-10, downloaded or from image folders, a six-layer encoder, two CPU cores.

    Command: python -m pipelines.pretrain cifar10 [--data.train DIR/train --data.test DIR/test]
    Hardware: two CPU cores
    Time: 17 to 35 minutes with bf16 instructions, about 70 without (AVX2: 190 images/s)
    Score: kNN 35.2 % untrained, 62.0 to 62.3 % trained
    Measured: by us, with version 0.1.0
    """
    return Settings(
        name="cifar10",
        data=DataSettings(train="cifar10", test="cifar10:test", global_batch=256),
        views=ViewSettings(
            image_px=32,
            crop_area=(0.2, 1.0),
            blur_probability=(0.0, 0.0),
            photometry="device",
        ),
        model=ModelSettings(encoder="conv6", projector_widths=(1024, 1024, 1024)),
        optimizer=OptimizerSettings(trust_coefficient=0.02),
        schedule=ScheduleSettings(epochs=14, warmup_epochs=1),
        training=TrainingSettings(probe_every_epochs=4, log_every_steps=20),
        probe=ProbeSettings(neighbors=200),
        scaling=ScalingSettings(workers=1, cpus_per_worker=1),
    )


def cifar10_small() -> Settings:
    """A run of a minute or two for ablations and sweeps: CIFAR-10 at 16 pixels, four layers.

    Without Ray, so that each of two cores can have a run of its own.

    Command: python -m pipelines.pretrain cifar10_small
      [--data.train DIR/train --data.test DIR/test]
    Hardware: one CPU core a run
    Time: 2 minutes for 20 epochs of 10,000 images; without bf16 instructions about 10
    Score: kNN 31.9 % untrained, 44.1 % trained, of those
    Measured: by us
    """
    longer = cifar10()
    return replace(
        longer,
        name="cifar10_small",
        views=replace(longer.views, image_px=16),
        model=ModelSettings(encoder="conv4", projector_widths=(512, 512, 512)),
        schedule=ScheduleSettings(epochs=20, warmup_epochs=1),
        training=replace(
            longer.training, probe_every_epochs=20, checkpoint_every_epochs=10, log_every_steps=20
        ),
        scaling=ScalingSettings(workers=0),
    )


def images() -> Settings:
    """Any folder of images, no labels needed: 64-pixel views, a six-layer encoder.

    A batch of 64, so that a few hundred images suffice.

    Command: python -m pipelines.pretrain images --data.train path/to/images
    Hardware: two CPU cores
    Time: 301 images in 4 minutes, at 27 images/s on a busy machine
    Score: RankMe 19 untrained, 48 trained, on those
    Measured: by us
    """
    return Settings(
        name="images",
        data=DataSettings(train="path/to/images", global_batch=64, rows_per_row_group=64),
        views=ViewSettings(image_px=64, photometry="device"),
        model=ModelSettings(encoder="conv6", projector_widths=(1024, 1024, 1024)),
        optimizer=OptimizerSettings(trust_coefficient=0.02),
        schedule=ScheduleSettings(epochs=20, warmup_epochs=1),
        scaling=ScalingSettings(workers=1, cpus_per_worker=1),
    )


def images_vit() -> Settings:
    """Any folder of images, and a vision transformer: timm's ViT-S with patches of 16 pixels.

    AdamW with its usual rate for vision transformers, and a little stochastic depth.

    Command: python -m pipelines.pretrain images_vit --data.train path/to/images
    Hardware: a GPU
    Time: not measured
    Score: none published for this method and encoder
    Measured: never run by us at this scale
    """
    return Settings(
        name="images_vit",
        data=DataSettings(train="path/to/images", global_batch=256, rows_per_row_group=64),
        views=ViewSettings(photometry="device"),
        model=ModelSettings(encoder="timm:vit_small_patch16_224", drop_path=0.1),
        optimizer=OptimizerSettings(kind="adamw"),
        schedule=ScheduleSettings(epochs=300, warmup_epochs=10),
        scaling=ScalingSettings(workers=1, cpus_per_worker=1),
    )


def images_convnext() -> Settings:
    """Any folder of images, and torchvision's ConvNeXt-T.

    Command: python -m pipelines.pretrain images_convnext --data.train path/to/images
    Hardware: a GPU
    Time: not measured
    Score: none published for this method and encoder
    Measured: never run by us at this scale
    """
    transformer = images_vit()
    return replace(
        transformer,
        name="images_convnext",
        model=ModelSettings(encoder="torchvision:convnext_tiny", drop_path=0.1),
    )


def imagenet_300() -> Settings:
    """The paper's ablation baseline (section 4): ResNet-50, 300 epochs, batch 2048.

    Command: python -m pipelines.pretrain imagenet_300 --data.train s3://…/train
      --data.test s3://…/val --storage /shared/runs
    Hardware: 32 V100
    Time: about 37 hours, as the paper's 1000 epochs took 124
    Score: 71.4 % top-1, 90.2 % top-5, linear (Table 5)
    Measured: by the paper; never run by us at this scale
    """
    return Settings(
        name="imagenet_300",
        data=DataSettings(
            train="imagenet/train", test="imagenet/val", global_batch=2048, rows_per_row_group=128
        ),
        views=ViewSettings(photometry="device"),
        schedule=ScheduleSettings(epochs=300, warmup_epochs=10),
        training=TrainingSettings(probe_every_epochs=10),
        scaling=ScalingSettings(workers=32, accelerator="gpu", cpus_per_worker=1),
    )


def imagenet_1000() -> Settings:
    """The paper's main run (section 2.2): ResNet-50, 1000 epochs, batch 2048.

    Command: python -m pipelines.pretrain imagenet_1000 --data.train s3://…/train
      --data.test s3://…/val --storage /shared/runs
    Hardware: 32 V100
    Time: about 124 hours
    Score: 73.2 % top-1, 91.0 % top-5, linear (Table 1)
    Measured: by the paper; never run by us at this scale
    """
    shorter = imagenet_300()
    return replace(
        shorter, name="imagenet_1000", schedule=ScheduleSettings(epochs=1000, warmup_epochs=10)
    )


PRESETS = {
    "digits": digits,
    "cifar10": cifar10,
    "cifar10_small": cifar10_small,
    "images": images,
    "images_vit": images_vit,
    "images_convnext": images_convnext,
    "imagenet_300": imagenet_300,
    "imagenet_1000": imagenet_1000,
}


def preset(name: str) -> Settings:
    """The settings of the preset called `name`.

    Raises: SettingsError for an unknown name.
    """
    if name not in PRESETS:
        raise SettingsError(f"There is no preset {name!r}; there are {', '.join(PRESETS)}.")
    return PRESETS[name]()


def starting_point(name: str) -> Settings:
    """The settings of the preset called `name`, or of a run's settings file (`….json`).

    Raises: SettingsError for an unknown preset, and for a file that is missing or broken.
    """
    if not name.endswith(".json"):
        return preset(name)
    try:
        return from_json(Path(name).expanduser().read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"The settings file {name} cannot be read: {error}.") from error
    except SettingsError as error:
        raise SettingsError(f"{name} holds no settings of a run: {error}") from error
