"""Settings of the network and of its loss."""

import re
from dataclasses import dataclass, field
from typing import Literal

from bt_ray.config.checks import require, require_positive
from bt_ray.config.methods import (
    ByolSettings,
    DeepClusterSettings,
    Method,
    MocoSettings,
    NatSettings,
    PirlSettings,
    SelaSettings,
    SimclrSettings,
    SwavSettings,
    VicregSettings,
    WmseSettings,
)

SMALL_ENCODERS = ("conv4", "conv6")
"""Convolutional ones for small images, of our own."""
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
"""torchvision's."""
_FROM_ELSEWHERE = re.compile(r"timm:[\w.-]+|[A-Za-z_][\w.]*:[A-Za-z_]\w*")
Variant = Literal[
    "barlow_twins",
    "invariance_only",
    "redundancy_only",
    "feature_normalization",
    "cross_covariance",
    "cross_entropy",
    "auto_correlation",
]


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Encoder and projector (paper, section 2.2)."""

    encoder: str = "resnet50"
    """resnet18, resnet34, resnet50, resnet101, resnet152; conv4 or conv6, small ones for small
    images; timm:NAME or torchvision:NAME, any of theirs; or package.module:function, your own."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """A ResNet's first layers: 7×7 stride 2 and max-pool, or 3×3 stride 1 for small images."""
    patch_px: int | None = None
    """Side of the patches that timm's vision transformers, and ConvNeXts' stems, cut images into;
    none: the model's own."""
    drop_path: float = 0.0
    """Highest probability that an image leaves out a residual branch (stochastic depth), in
    encoders that have it."""
    projector_widths: tuple[int, ...] = (8192, 8192, 8192)
    """Output units of each linear layer of the projector; the last is D."""
    projector_batch_norm: bool = True
    """Batch norm after each linear layer of the projector but the last (Table 5: "No BN in MLP");
    without it these layers have biases."""
    projector_last_norm: bool = False
    """Batch norm after the projector's last layer, too (SimSiam, SimCLR)."""
    predictor_widths: tuple[int, ...] | None = None
    """Output units of each linear layer of a predictor, of SimSiam and BYOL on both views, of
    Barlow Twins on the first (Table 6: 8192 8192); the last must be D; none: no predictor."""
    stop_gradient: bool = False
    """No gradient from the second view, the one without a predictor (Table 6)."""
    start_from: str | None = None
    """Weights that a *new* run starts from: a run's folder or a checkpoint (also those of its
    projector and predictor, if they have the same layers), a file of weights,
    models:/NAME/VERSION, models:/NAME@ALIAS, runs:/RUN_ID, timm:NAME, torchvision:WEIGHTS or
    hf:REPOSITORY[@REVISION]; none: weights drawn from the seed. (To *continue* a run, give its
    name.)"""
    start_sha256: str | None = None
    """SHA-256 that the file of the encoder's first weights must have; none: any, and the run notes
    it here."""

    @property
    def is_built_in(self) -> bool:
        """Whether the encoder is one of the few names that are known to work."""
        return self.encoder in (*SMALL_ENCODERS, *RESNETS)

    def __post_init__(self) -> None:
        ours = (*SMALL_ENCODERS, *RESNETS)
        require(
            self.is_built_in or _FROM_ELSEWHERE.fullmatch(self.encoder) is not None,
            f"model.encoder={self.encoder!r} must be one of {', '.join(ours)}, or timm:NAME, "
            "torchvision:NAME or package.module:function.",
        )
        if self.patch_px is not None:
            require_positive("model", self, "patch_px")
        require(
            self.start_sha256 is None or self.start_from is not None,
            f"model.start_sha256={self.start_sha256} is that of the weights that model.start_from "
            "names; give that, too.",
        )
        require(0 <= self.drop_path < 1, f"model.drop_path={self.drop_path} must lie in [0, 1).")
        require(
            len(self.projector_widths) > 0 and all(width > 0 for width in self.projector_widths),
            f"model.projector_widths={self.projector_widths} must name at least one width above 0.",
        )
        require(
            self.predictor_widths is None
            or (
                self.predictor_widths[-1:] == self.projector_widths[-1:]
                and all(width > 0 for width in self.predictor_widths)
            ),
            f"model.predictor_widths={self.predictor_widths} must be above 0 and end with "
            f"{self.projector_widths[-1]}, as model.projector_widths does.",
        )


@dataclass(frozen=True, kw_only=True)
class ObjectiveSettings:
    """The loss (paper, Eq. 1), its ablations (Table 5; docs/ablations.md), and other methods."""

    method: Method = "barlow_twins"
    """What pretrains the encoder (docs/methods.md): barlow_twins, or a method that the paper
    compares with. Widths of projector and predictor, rates of biases and what the views are follow
    the method, but for what is given beside it."""
    variant: Variant = "barlow_twins"
    """Which loss: the paper's (barlow_twins), one that Table 5 compares it with (invariance_only,
    redundancy_only, feature_normalization, cross_covariance, cross_entropy), or auto_correlation,
    whose redundancy term is of one view's own correlations (section 5.2)."""
    redundancy_weight: float = 5e-3
    """λ of Eq. 1: weight of the redundancy-reduction term."""
    form: Literal["auto", "correlation", "gram"] = "auto"
    """How the loss is computed: by the D×D correlations, by two N×N Gram matrices (the same loss,
    for D above N), or by the faster of the two."""
    temperature: float = 0.1
    """τ of cross_entropy; the paper does not give its own."""
    simclr: SimclrSettings = field(default_factory=SimclrSettings)
    moco_v2: MocoSettings = field(default_factory=MocoSettings)
    byol: ByolSettings = field(default_factory=ByolSettings)
    swav: SwavSettings = field(default_factory=SwavSettings)
    pirl: PirlSettings = field(default_factory=PirlSettings)
    wmse: WmseSettings = field(default_factory=WmseSettings)
    deepcluster: DeepClusterSettings = field(default_factory=DeepClusterSettings)
    sela: SelaSettings = field(default_factory=SelaSettings)
    nat: NatSettings = field(default_factory=NatSettings)
    vicreg: VicregSettings = field(default_factory=VicregSettings)

    def __post_init__(self) -> None:
        require_positive("objective", self, "redundancy_weight", "temperature")
        require(
            not (self.variant == "cross_entropy" and self.form == "gram"),
            "objective.form=gram cannot compute objective.variant=cross_entropy, which needs every "
            "correlation; use auto.",
        )
