"""What a user's own code may bring as `model.encoder`: good ones, and each kind of bad one."""

import torch
from torch import Tensor, nn


def good(channels: int, image_px: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.GELU(),
        nn.Dropout(0.2),
        nn.AvgPool2d(image_px),
        nn.Flatten(),
    )


def of_rgb() -> nn.Module:
    return good(3, 16)


class Frozen(nn.Sequential):
    """Its first layer is not trained, and asks for no gradient."""

    def __init__(self) -> None:
        super().__init__(*good(3, 16).children())
        self[0].requires_grad_(False)


def maps(channels: int) -> nn.Module:
    return nn.Conv2d(channels, 8, 3)


def maps_that_say_so(channels: int) -> nn.Module:
    module = maps(channels)
    module.num_features = 8  # type: ignore[assignment]
    return module


def raising() -> nn.Module:
    raise RuntimeError("no weights today")


def no_module() -> str:
    return "resnet"


class HalfEncoder(nn.Module):
    num_features = 3

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)).half()


class Infinite(HalfEncoder):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) / 0


class Failing(HalfEncoder):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("224 pixels, please")


class Idle(HalfEncoder):
    """With a layer that it does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.left = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.used(x.mean((2, 3)))
        return found


class BatchStandardized(HalfEncoder):
    """A normalisation over the batch that is no module of torch's."""

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3))
        return (pooled - pooled.mean(0)) / pooled.std(0)


class OwnNorm(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


def own_norm(channels: int, image_px: int) -> nn.Module:
    module = good(channels, image_px)
    module[1] = OwnNorm(8)  # type: ignore[operator]
    return module


def cumulative(channels: int, image_px: int) -> nn.Module:
    module = good(channels, image_px)
    module[1] = nn.BatchNorm2d(8, momentum=None)  # type: ignore[operator]
    return module


torch_constant = torch.zeros(1)
