"""Settings of the methods that Barlow Twins is compared with, each with its own paper's numbers.

A method's settings count only while `objective.method` names it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from bt_ray.config.checks import require, require_positive

Method = Literal[
    "barlow_twins",
    "simclr",
    "moco_v2",
    "simsiam",
    "byol",
    "swav",
    "pirl",
    "wmse",
    "imax",
    "deepcluster",
    "sela",
    "nat",
    "vicreg",
]

TITLES: Mapping[Method, str] = {
    "barlow_twins": "Barlow Twins",
    "simclr": "SimCLR",
    "moco_v2": "MoCo v2",
    "simsiam": "SimSiam",
    "byol": "BYOL",
    "swav": "SwAV",
    "pirl": "PIRL",
    "wmse": "W-MSE",
    "imax": "IMAX",
    "deepcluster": "DeepCluster-v2",
    "sela": "SeLa-v2",
    "nat": "NAT",
    "vicreg": "VICReg",
}
"""What papers call them."""
MULTI_CROP: tuple[Method, ...] = ("swav", "deepcluster", "sela")
"""Methods that take smaller views beside the two."""
WITH_PREDICTOR: tuple[Method, ...] = ("simsiam", "byol")


@dataclass(frozen=True, kw_only=True)
class SimclrSettings:
    """SimCLR (Chen et al. 2020a)."""

    temperature: float = 0.1
    """τ of the contrastive loss (their Table 5)."""

    def __post_init__(self) -> None:
        require_positive("objective.simclr", self, "temperature")


@dataclass(frozen=True, kw_only=True)
class MocoSettings:
    """MoCo v2 (He et al. 2020; Chen et al. 2020b)."""

    temperature: float = 0.2
    """τ of the contrastive loss."""
    queue_rows: int = 65_536
    """Keys of earlier steps that are negatives, at most as many as the data have."""
    momentum: float = 0.999
    """Share that the momentum encoder keeps of itself at each step."""
    norm_rows: int = 32
    """Rows of the batch that share batch norm's statistics, shuffled for the keys: a GPU's in the
    paper, the same here for any number of workers."""

    def __post_init__(self) -> None:
        require_positive("objective.moco_v2", self, "temperature", "queue_rows")
        _require_momentum("moco_v2", self.momentum)
        require(
            self.norm_rows >= 2,
            f"objective.moco_v2.norm_rows={self.norm_rows} must be at least 2: a variance needs "
            "two rows.",
        )


@dataclass(frozen=True, kw_only=True)
class ByolSettings:
    """BYOL (Grill et al. 2020)."""

    momentum: float = 0.996
    """Share that the target network keeps of itself at the first step; it rises to 1 by a cosine.
    Shorter runs begin with less: 0.99 for 300 epochs or 100, 0.97 for 40."""

    def __post_init__(self) -> None:
        _require_momentum("byol", self.momentum)


@dataclass(frozen=True, kw_only=True)
class SwavSettings:
    """SwAV (Caron et al. 2020)."""

    temperature: float = 0.1
    """τ of the predicted codes."""
    prototypes: int = 3000
    """K, at most one for ten images of the data."""
    epsilon: float = 0.05
    """ε of Sinkhorn-Knopp: how smooth the codes are."""
    iterations: int = 3
    """Iterations of Sinkhorn-Knopp."""
    queue_rows: int = 0
    """Rows of earlier steps that take part in Sinkhorn-Knopp, for batches that are small beside K
    (3,840 in the paper's for a batch of 256); 0: none."""
    queue_from_epoch: int = 15
    """Epoch from which the queue is used."""
    frozen_epochs: float = 1
    """Epochs at the beginning in which the prototypes do not move."""

    def __post_init__(self) -> None:
        require_positive(
            "objective.swav", self, "temperature", "prototypes", "epsilon", "iterations"
        )
        _require_not_negative("swav", self, "queue_rows", "queue_from_epoch", "frozen_epochs")


@dataclass(frozen=True, kw_only=True)
class PirlSettings:
    """PIRL with the jigsaw (Misra and van der Maaten 2020)."""

    temperature: float = 0.07
    """τ of both terms."""
    negatives: int = 32_000
    """Representations in the memory bank that are drawn as negatives in each step, at most those of
    all other images."""
    memory_momentum: float = 0.5
    """Share that an image's entry in the memory bank keeps of itself."""
    image_weight: float = 0.5
    """1 − λ of their Eq. 5: weight of the term that compares an image itself with its entry."""

    def __post_init__(self) -> None:
        require_positive("objective.pirl", self, "temperature", "negatives")
        _require_momentum("pirl", self.memory_momentum, "memory_momentum")
        _require_momentum("pirl", self.image_weight, "image_weight")


@dataclass(frozen=True, kw_only=True)
class WmseSettings:
    """W-MSE (Ermolov et al. 2021)."""

    rows: int = 128
    """Rows of the batch that are whitened together: more than the embedding has dimensions, and
    so many that they divide the batch."""
    slices: int = 4
    """Times that the batch is cut anew at random, whose losses are averaged."""
    epsilon: float = 0.0
    """ε by which the covariance C becomes (1 − ε) C + ε I before it is inverted, as in their
    code; 0: none, as in their paper."""

    def __post_init__(self) -> None:
        require_positive("objective.wmse", self, "slices")
        require(self.rows >= 2, f"objective.wmse.rows={self.rows} must be at least 2.")
        require(
            0 <= self.epsilon < 1,
            f"objective.wmse.epsilon={self.epsilon} must be 0 or above, and below 1.",
        )


@dataclass(frozen=True, kw_only=True)
class DeepClusterSettings:
    """DeepCluster-v2 (Caron et al. 2018; 2020, appendix)."""

    temperature: float = 0.1
    """τ of the predicted clusters."""
    prototypes: int = 3000
    """K, clusters of each k-means, at most one for ten images of the data."""
    heads: int = 3
    """Clusterings, which begin differently."""
    iterations: int = 10
    """Iterations of k-means between two epochs."""

    def __post_init__(self) -> None:
        require_positive(
            "objective.deepcluster", self, "temperature", "prototypes", "heads", "iterations"
        )


@dataclass(frozen=True, kw_only=True)
class SelaSettings:
    """SeLa (Asano et al. 2020), in the form of SeLa-v2 (Caron et al. 2020, appendix)."""

    temperature: float = 0.1
    """τ of the predicted labels."""
    prototypes: int = 3000
    """K, labels of each head, at most one for ten images of the data."""
    heads: int = 3
    """Labellings, which begin differently."""
    sharpness: float = 25.0
    """λ of Sinkhorn-Knopp over all images, which multiplies scores that τ has divided (Eq. 5)."""
    iterations: int = 100
    """Iterations of Sinkhorn-Knopp, at most: it ends earlier where the sums hold."""

    def __post_init__(self) -> None:
        require_positive(
            "objective.sela", self, "temperature", "prototypes", "heads", "sharpness", "iterations"
        )


@dataclass(frozen=True, kw_only=True)
class NatSettings:
    """Noise as targets (Bojanowski and Joulin 2017)."""

    epochs_between: int = 3
    """Epochs between two times that the targets are assigned anew (their section 3.3)."""

    def __post_init__(self) -> None:
        require_positive("objective.nat", self, "epochs_between")


@dataclass(frozen=True, kw_only=True)
class VicregSettings:
    """VICReg (Bardes, Ponce and LeCun 2022)."""

    invariance_weight: float = 25.0
    """λ of their Eq. 6."""
    variance_weight: float = 25.0
    """μ of their Eq. 6."""
    covariance_weight: float = 1.0
    """ν of their Eq. 6."""

    def __post_init__(self) -> None:
        require_positive("objective.vicreg", self, "invariance_weight")
        _require_not_negative("vicreg", self, "variance_weight", "covariance_weight")


def _require_momentum(method: str, value: float, name: str = "momentum") -> None:
    require(0 <= value <= 1, f"objective.{method}.{name}={value} must lie between 0 and 1.")


def _require_not_negative(method: str, settings: object, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        require(value >= 0, f"objective.{method}.{name}={value} must be 0 or above.")
