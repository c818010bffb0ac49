"""The linear layer that tells of each cell of frozen features which class it is."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, cross_entropy, interpolate

from bt_ray.errors import NonFiniteLossError, SettingsError
from bt_ray.segmentation.masks import IGNORED

_FIRST_DEVIATION = 0.01
_CELLS_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class LinearProtocol:
    """AdamW on the cross-entropy of pixels; its rate falls to 0 in a line.

    Layer, loss, optimizer, rate, weight decay and batch are those of DINOv2's linear evaluation
    (Oquab et al. 2023, section 7.4, and its published configurations). What differs: images are
    stretched to one square and seen as they are, without random crops, scales, flips and colours,
    and scored in one piece, not by a window that slides; features are normalised by the statistics
    of all training cells, not of a batch, and not scaled after that; there is no warm-up, and
    there are fewer steps than their 40,000.
    """

    epochs: int = 20
    batch: int = 16
    rate: float = 1e-3
    weight_decay: float = 1e-4
    seed: int = 0
    """Of the first weights and of the images' order."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "rate"):
            if getattr(self, name) <= 0:
                raise SettingsError(f"--{name} {getattr(self, name)} must be above 0.")
        if self.weight_decay < 0:
            raise SettingsError(f"--weight-decay {self.weight_decay} must not be below 0.")


class LinearHead(nn.Module):
    """Features (n, C, h, w), normalised, to scores (n, classes, h, w) by a 1×1 convolution.

    That is a linear layer on each cell's features, which are quickest to reach in the memory layout
    channels-last.

    Args:
      features: (m, C, h, w), those trained on: the mean and deviation of each channel are theirs.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, features: Tensor, num_classes: int, seed: int) -> None:
        super().__init__()
        mean, variance = _statistics(features)
        self.register_buffer("mean", mean)
        self.register_buffer("variance", variance)
        self.linear = nn.Linear(features.shape[1], num_classes)
        drawn = torch.Generator().manual_seed(seed)
        nn.init.normal_(self.linear.weight, std=_FIRST_DEVIATION, generator=drawn)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Scores (n, classes, h, w) of the cells of features (n, C, h, w)."""
        scores: Tensor = self.linear(self.normalize(features).permute(0, 2, 3, 1))
        return scores.permute(0, 3, 1, 2)

    def normalize(self, features: Tensor) -> Tensor:
        """Features whose channels had mean 0 and deviation 1 over all that were trained on."""
        return batch_norm(features, self.mean, self.variance)


def enlarge(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Scores (n, classes, h, w) at the size of the labels, bilinearly; borders on borders."""
    return interpolate(scores, size=size, mode="bilinear", align_corners=False)


def train_head(
    features: Tensor,
    masks: Tensor,
    num_classes: int,
    protocol: LinearProtocol,
    device: torch.device,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> LinearHead:
    """A head trained on all features; the same for the same arguments on the same machine.

    Args:
      features: float32 (n, C, h, w), on the CPU.
      masks: uint8 (n, px, px), class indices or `IGNORED`, on the CPU.
      on_step: is told each step, counted from 0, and its loss.
    Raises: NonFiniteLossError.
    """
    head = LinearHead(features, num_classes, protocol.seed).to(device)
    optimizer = torch.optim.AdamW(
        head.linear.parameters(), lr=protocol.rate, weight_decay=protocol.weight_decay
    )
    generator = torch.Generator().manual_seed(protocol.seed)
    steps = protocol.epochs * -(-len(features) // protocol.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    step = 0
    for _ in range(protocol.epochs):
        for rows in torch.randperm(len(features), generator=generator).split(protocol.batch):
            labels = masks[rows].to(device).long()
            scores = enlarge(head(features[rows].to(device)), (labels.shape[1], labels.shape[2]))
            loss = mean_loss(scores, labels)
            if not loss.isfinite():
                raise NonFiniteLossError(
                    f"The linear layer's loss is {loss.item()} in step {step}; give a lower --rate."
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            on_step(step, float(loss.detach()))
            step += 1
    return head


def mean_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """The mean cross-entropy over the pixels that are not ignored; 0 if all are.

    Args:
      scores: (n, classes, h, w).
      labels: int64 (n, h, w).
    """
    total = cross_entropy(scores, labels, ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)


def _statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (C,) of each channel over all cells, summed in float64."""
    count = features.shape[0] * features.shape[2] * features.shape[3]
    parts = features.split(_CELLS_AT_ONCE)
    mean = sum(part.double().sum((0, 2, 3)) for part in parts) / count
    shift = mean.view(1, -1, 1, 1)
    variance = sum((part.double() - shift).square().sum((0, 2, 3)) for part in parts) / count
    return mean.float(), variance.float()
