"""The paper's method written plainly, in torch's own parts: what `benchmarks.gpu` compares with."""

from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path

import torch
from PIL import Image, ImageFilter
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.gpu_marks import Marks
from bt_ray.config import Settings
from bt_ray.cpu.count import available_cpus
from bt_ray.errors import DataError
from bt_ray.model.twins import Twins, build_twins
from bt_ray.precision import autocast

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_ENDINGS = (".jpeg", ".jpg", ".png")

Views = tuple[Tensor, Tensor]


class PlainLars(torch.optim.Optimizer):
    """LARS, tensor by tensor: the paper's weight decay and rates, vectors by plain momentum."""

    def __init__(self, parameters: list[nn.Parameter], settings: Settings) -> None:
        chosen = settings.optimizer
        super().__init__(
            parameters,
            {
                "lr": chosen.weight_rate,
                "vector_lr": chosen.true_bias_rate,
                "decay": chosen.true_weight_decay,
                "momentum": chosen.momentum,
                "trust": chosen.trust_coefficient,
            },
        )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                update, rate = weight.grad, group["vector_lr"]
                if weight.dim() > 1:
                    rate = group["lr"]
                    update = update + group["decay"] * weight
                    weight_norm, update_norm = weight.norm(), update.norm()
                    ratio = group["trust"] * weight_norm / update_norm
                    usable = (weight_norm > 0) & (update_norm > 0)
                    update = update * torch.where(usable, ratio, torch.ones_like(ratio))
                state = self.state[weight]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(weight)
                state["momentum"].mul_(group["momentum"]).add_(update)
                weight.add_(state["momentum"], alpha=-rate)


class PlainRun:
    """Model, loss, scaler and LARS; `step` trains on one pair of batches of views.

    The encoder is torchvision's and in the settings' precision and layout, as the other's is.
    """

    def __init__(self, settings: Settings, device: torch.device, batches: Iterator[Views]) -> None:
        torch.manual_seed(settings.training.seed)
        self._settings, self._device, self._batches = settings, device, batches
        self._layout = (
            torch.channels_last if settings.training.channels_last else torch.contiguous_format
        )
        self.twins: Twins = build_twins(settings)
        self.twins.to(device, memory_format=self._layout)  # type: ignore[call-overload]
        self.optimizer = PlainLars(list(self.twins.parameters()), settings)
        is_fp16 = settings.training.precision == "fp16"
        self.scaler = torch.amp.GradScaler(device.type, enabled=is_fp16)

    def step(self, marks: Marks) -> None:
        """One step; its parts are marked."""
        views = next(self._batches)
        x_a, x_b = (
            view.to(self._device, non_blocking=True, memory_format=self._layout) for view in views
        )
        marks.mark("input")
        with autocast(self._settings.training, self._device):
            z_a, z_b = self.twins(x_a, x_b)
            marks.mark("forward")
            loss = plain_loss(z_a, z_b, self._settings.objective.redundancy_weight)
        marks.mark("loss")
        marks.mark_gradient("loss", z_a, z_b)
        self.scaler.scale(loss).backward()
        marks.mark("backward")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        marks.mark("optimizer")


def plain_loss(z_a: Tensor, z_b: Tensor, redundancy_weight: float) -> Tensor:
    """The loss from the D×D cross-correlation, as the paper's pseudo-code has it (Algorithm 1).

    Standardised by batch norm without parameters, as in the reference code.
    """
    normed_a, normed_b = (functional.batch_norm(z, None, None, training=True) for z in (z_a, z_b))
    c = normed_a.T @ normed_b / len(z_a)
    off = (c - torch.eye(c.shape[0], device=c.device)).pow(2)
    weights = torch.full_like(off, redundancy_weight).fill_diagonal_(1)
    return (off * weights).sum()


def noise_views(settings: Settings, device: torch.device) -> Iterator[Views]:
    """The same two batches of normal numbers, on the device, without end."""
    px, n = settings.views.image_px, settings.data.global_batch
    views = torch.randn(2, n, 3, px, px, device=device)
    return repeat((views[0], views[1]))


def loaded_views(folder: Path, settings: Settings) -> Iterator[Views]:
    """Batches of two views, without end, by torchvision's transforms in a process a core.

    Raises: DataError if the folder holds fewer images than a step takes.
    """
    images = _Pairs(folder, settings)
    if len(images) < settings.data.global_batch:
        raise DataError(
            f"{folder} has {len(images)} images ({', '.join(_ENDINGS)}); a step takes "
            f"{settings.data.global_batch}. Give other --images or a smaller --batch."
        )
    loader = DataLoader(
        images,
        batch_size=settings.data.global_batch,
        shuffle=True,
        drop_last=True,
        num_workers=available_cpus(),
        pin_memory=torch.cuda.is_available(),
        persistent_workers=True,
    )
    return chain.from_iterable(repeat(loader))


class _Pairs(Dataset[Views]):
    """Two views of each image of a folder."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self._files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _ENDINGS)
        self._views = [_build_view(settings, number) for number in (0, 1)]

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Views:
        with Image.open(self._files[index]) as image:
            picture = image.convert("RGB")
        view_a, view_b = (view(picture) for view in self._views)
        return view_a, view_b


def _build_view(settings: Settings, number: int) -> transforms.Compose:
    views = settings.views
    jitter = transforms.ColorJitter(
        views.jitter_brightness, views.jitter_contrast, views.jitter_saturation, views.jitter_hue
    )
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(
                views.image_px,
                scale=views.crop_area,
                ratio=views.crop_ratio,
                interpolation=transforms.InterpolationMode.BICUBIC,
            ),
            transforms.RandomHorizontalFlip(views.flip_probability),
            transforms.RandomApply([jitter], views.jitter_probability),
            transforms.RandomGrayscale(views.grayscale_probability),
            transforms.RandomApply([_Blur(views.blur_sigma_px)], views.blur_probability[number]),
            transforms.RandomSolarize(views.solarize_threshold, views.solarize_probability[number]),
            transforms.ToTensor(),
            transforms.Normalize(_MEAN, _STD),
        ]
    )


class _Blur:
    """Pillow's Gaussian blur, of a random width."""

    def __init__(self, sigma_px: tuple[float, float]) -> None:
        self._low, self._high = sigma_px

    def __call__(self, image: Image.Image) -> Image.Image:
        sigma = float(torch.empty(()).uniform_(self._low, self._high))
        return image.filter(ImageFilter.GaussianBlur(sigma))
