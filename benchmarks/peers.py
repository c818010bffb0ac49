"""What the whole job is compared with: a loop of lightly's parts, and a bare loop in memory."""

import math
import os
import time
import zipfile
from collections.abc import Callable, Iterator
from importlib.resources.abc import Traversable
from itertools import count
from operator import attrgetter
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from bt_ray.config import Settings
from bt_ray.cpu.count import available_cpus
from bt_ray.data.views.draw import ViewParameters, draw
from bt_ray.data.views.photometry import apply_photometry, tabulate
from bt_ray.data.views.reference import decode
from bt_ray.errors import DataError, LaunchError
from bt_ray.methods.barlow_twins import BarlowTwinsLearner
from bt_ray.model.inputs import to_input
from bt_ray.objective.barlow import BarlowTwins
from bt_ray.optim.build import set_rates
from bt_ray.precision import autocast

_ARCHIVE = "cifar10-imagefolder.zip"
_CPU = torch.device("cpu")


def gather_images(data: Path | None, work: Path, *, num_images: int) -> Path:
    """A new folder below `work` with at least that many images, as many of each class.

    Args:
      data: a folder of images, a subfolder a class; none: the archive that the tests use.

    Raises: DataError if there are no such images, or too few.
    """
    source: Traversable = data if data is not None else _archived_images()
    classes = [c for c in source.iterdir() if c.is_dir()] if source.is_dir() else []
    most = math.ceil(num_images / max(1, len(classes)))
    folder = work / f"images-{num_images}"
    copied = 0
    for one_class in classes:
        (folder / one_class.name).mkdir(parents=True)
        for image in sorted(one_class.iterdir(), key=attrgetter("name"))[:most]:
            (folder / one_class.name / image.name).write_bytes(image.read_bytes())
            copied += 1
    if copied < num_images:
        raise DataError(
            f"The steps take {num_images:,} images, as many of each class, and {source} has "
            f"{copied:,} such; give --data another folder, or take fewer steps."
        )
    return folder


def _archived_images() -> zipfile.Path:
    shared = Path(__file__).parents[2] / "shared" / "data"
    archive = Path(os.environ.get("BT_RAY_TEST_DATA", shared)) / _ARCHIVE
    if not archive.is_file():
        raise DataError(
            f"There is no {_ARCHIVE} in {archive.parent}; give --data a folder of images, or "
            "set BT_RAY_TEST_DATA to the archive's folder."
        )
    return zipfile.Path(archive, "train/")


def lightly_images_per_s(
    folder: Path, global_batch: int, warmup_steps: int, steps: int, *, tuned: bool
) -> float:
    """Images/s of a plain loop as lightly's Barlow Twins example has it, on all cores.

    SGD, its transform for CIFAR-10 and ResNet-18 are the example's; the 3×3 stem is not, it is
    the job's. The loader has as many processes as there are cores, for which the example's
    eight are too many. The folder must hold more images than the steps take, so that the
    loader works until the last of them.

    Args:
      tuned: add bf16 autocast and channels-last, which the example does without.
    Raises: LaunchError if lightly is not installed.
    """
    try:
        from lightly import loss, transforms
        from lightly.models import modules
    except ImportError as error:
        raise LaunchError(
            f"The comparison needs the package lightly: `pip install lightly` ({error})."
        ) from error
    transform = transforms.BYOLTransform(
        view_1_transform=transforms.BYOLView1Transform(input_size=32, gaussian_blur=0.0),
        view_2_transform=transforms.BYOLView2Transform(input_size=32, gaussian_blur=0.0),
    )
    loader = DataLoader(
        ImageFolder(folder, transform),
        batch_size=global_batch,
        shuffle=True,
        drop_last=True,
        num_workers=available_cpus(),
    )
    batches = iter(loader)

    layout = torch.channels_last if tuned else torch.contiguous_format
    model = nn.Sequential(_cifar_resnet18(), modules.BarlowTwinsProjectionHead(512, 2048, 2048))
    model.to(memory_format=layout)
    criterion = loss.BarlowTwinsLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.06)

    def step() -> None:
        (view_a, view_b), _ = next(batches)
        with torch.autocast("cpu", torch.bfloat16, enabled=tuned):
            z_a = model(view_a.to(memory_format=layout))
            z_b = model(view_b.to(memory_format=layout))
            value = criterion(z_a, z_b)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    return global_batch * _steps_per_s(step, warmup_steps, steps)


def _cifar_resnet18() -> nn.Module:
    resnet: nn.Module = torchvision.models.resnet18()
    resnet.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
    resnet.maxpool = nn.Identity()
    resnet.fc = nn.Identity()
    return resnet


def bare_images_per_s(folder: Path, settings: Settings, warmup_steps: int, steps: int) -> float:
    """Images/s of the least that trains the settings' model, on all cores.

    One process and no Ray: decoded images in memory, batched augmentation, forward, objective,
    backward, LARS. The crop is bilinear, which costs less than the job's bicubic.
    """
    learner = BarlowTwinsLearner(settings, _CPU, steps_per_epoch=1)
    objective = BarlowTwins(settings.objective.redundancy_weight)
    steps_done = count()
    batches = _memory_batches(_load(folder), settings)

    def step() -> None:
        set_rates(learner.optimizer, next(steps_done) / (warmup_steps + steps))
        view_a, view_b = (to_input(view, settings) for view in next(batches))
        with autocast(settings.training, _CPU):
            z_a, z_b = learner.module(view_a, view_b)
        objective(z_a, z_b).loss.backward()
        learner.optimizer.step()
        learner.optimizer.zero_grad()

    return settings.data.global_batch * _steps_per_s(step, warmup_steps, steps)


def _load(folder: Path) -> Tensor:
    """All images, uint8 (n, 3, px, px)."""
    images = [np.asarray(decode(path.read_bytes())) for path in sorted(folder.glob("*/*"))]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def _memory_batches(images: Tensor, settings: Settings) -> Iterator[list[Tensor]]:
    """Pairs of views of random images, without end."""
    random = np.random.default_rng(settings.training.seed)
    threshold = settings.views.solarize_threshold
    for number in count():
        rows = random.choice(len(images), settings.data.global_batch, replace=False)
        chosen = images[torch.from_numpy(rows)].float()
        sizes = np.full(len(rows), images.shape[-1])
        pair = [
            draw(
                settings.views, seed=0, epoch=number, view=view, samples=rows, widths=sizes,
                heights=sizes,
            )
            for view in (0, 1)
        ]  # fmt: skip
        yield [apply_photometry(_crop(chosen, drawn), tabulate(drawn, threshold)) for drawn in pair]


def _crop(images: Tensor, drawn: ViewParameters) -> Tensor:
    """Crop, resize (bilinear) and flip of a batch of square images in one pass, uint8."""
    px = images.shape[-1]
    affine = np.zeros((len(images), 2, 3), dtype=np.float32)
    affine[:, 0, 0] = drawn.crop_width / px * np.where(drawn.flip, -1, 1)
    affine[:, 1, 1] = drawn.crop_height / px
    affine[:, 0, 2] = (2 * drawn.crop_left + drawn.crop_width) / px - 1
    affine[:, 1, 2] = (2 * drawn.crop_top + drawn.crop_height) / px - 1
    grid = functional.affine_grid(torch.from_numpy(affine), list(images.shape), align_corners=False)
    views = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return views.round_().byte()


def _steps_per_s(step: Callable[[], None], warmup_steps: int, steps: int) -> float:
    for _ in range(warmup_steps):
        step()
    began = time.perf_counter()
    for _ in range(steps):
        step()
    return steps / (time.perf_counter() - began)
