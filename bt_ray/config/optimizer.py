"""Settings of the optimizer and of its learning rate."""

import math
from dataclasses import dataclass
from typing import Literal

from bt_ray.config.checks import require, require_positive, require_probability


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """LARS with the paper's numbers (section 2.2), and what they mean for the true gradient.

    The published rates were tuned with code whose gradient is 1/W of the true one: autograd does
    not see its all-reduce of the correlation matrix, and DDP then averages over W workers. LARS
    ignores a gradient's scale, so `weight_rate` holds as it is. Parameters that LARS does not adapt
    need their rate divided by W; the decay, which LARS adds to the gradient, is multiplied by W.
    `reference_world_size` is that W.

    AdamW, which vision transformers are usually trained with, ignores a gradient's scale in all
    parameters, and has settings of its own.
    """

    kind: Literal["lars", "adamw"] = "lars"
    """LARS, as in the paper, or AdamW."""
    weight_rate: float = 0.2
    """Base learning rate of weights, for a batch of 256."""
    bias_rate: float = 0.0048
    """Base learning rate of biases and batch-norm parameters, for a batch of 256, as published."""
    weight_decay: float = 1.5e-6
    """Weight decay as published."""
    reference_world_size: int = 32
    """W, the number of workers of the run that the published numbers were tuned for."""
    momentum: float = 0.9
    """Momentum of LARS."""
    trust_coefficient: float = 0.001
    """η of LARS: the share of its weight's norm that a step at rate 1 moves."""
    adamw_rate: float = 5e-4
    """Base learning rate of AdamW, for a batch of 256 (as DINO, Caron et al. 2021, trains vision
    transformers)."""
    adamw_weight_decay: float = 0.05
    """Weight decay of AdamW, not of biases, normalisations, position and class tokens."""
    adamw_betas: tuple[float, float] = (0.9, 0.999)
    """Decay of AdamW's averages of gradients and of their squares (torch's defaults)."""

    def __post_init__(self) -> None:
        require_positive(
            "optimizer", self, "weight_rate", "bias_rate", "trust_coefficient",
            "reference_world_size", "adamw_rate",
        )  # fmt: skip
        require(
            math.isfinite(self.weight_decay) and self.weight_decay >= 0,
            f"optimizer.weight_decay={self.weight_decay} must be a finite number, 0 or above.",
        )
        require(0 <= self.momentum < 1, f"optimizer.momentum={self.momentum} must lie in [0, 1).")
        require(
            math.isfinite(self.adamw_weight_decay) and self.adamw_weight_decay >= 0,
            f"optimizer.adamw_weight_decay={self.adamw_weight_decay} must be a finite number, 0 or "
            "above.",
        )
        require(
            all(0 <= beta < 1 for beta in self.adamw_betas),
            f"optimizer.adamw_betas={self.adamw_betas} must lie in [0, 1).",
        )

    @property
    def rate_setting(self) -> str:
        """Name of the setting that most weights' learning rate comes from."""
        return "optimizer.weight_rate" if self.kind == "lars" else "optimizer.adamw_rate"

    @property
    def rate(self) -> float:
        """The value of `rate_setting`."""
        return self.weight_rate if self.kind == "lars" else self.adamw_rate

    @property
    def true_bias_rate(self) -> float:
        """`bias_rate` for the true gradient of the global loss."""
        return self.bias_rate / self.reference_world_size

    @property
    def true_weight_decay(self) -> float:
        """`weight_decay` for the true gradient of the global loss."""
        return self.weight_decay * self.reference_world_size


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """How long, and how the learning rate moves (paper, section 2.2)."""

    epochs: int = 300
    """Passes over the training images."""
    steps: int | None = None
    """Most steps of the run, which may end within an epoch, and so of its schedule; none: those of
    all epochs."""
    warmup_epochs: float = 10
    """Epochs of linear warm-up; a cosine follows."""
    final_factor: float = 1e-3
    """The last learning rate, as a share of the highest."""

    def __post_init__(self) -> None:
        require_positive("schedule", self, "epochs")
        require(
            self.steps is None or self.steps >= 1,
            f"schedule.steps={self.steps} must be at least 1, or none.",
        )
        require(
            0 <= self.warmup_epochs <= self.epochs,
            f"schedule.warmup_epochs={self.warmup_epochs} must lie between 0 and "
            f"schedule.epochs={self.epochs}.",
        )
        require_probability("schedule", self, "final_factor")

    def total_steps(self, steps_per_epoch: int) -> int:
        """Steps of the whole run."""
        most = self.epochs * steps_per_epoch
        return most if self.steps is None else min(self.steps, most)
