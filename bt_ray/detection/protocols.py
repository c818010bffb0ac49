"""How a detector is trained on an encoder: as published, and in small for two cores."""

from dataclasses import dataclass, replace
from typing import Literal

from bt_ray.errors import SettingsError

Backbone = Literal["c4", "fpn"]


@dataclass(frozen=True, kw_only=True)
class SceneScaling:
    """To what size whole images are brought; their sides keep their ratio.

    Source: Girshick et al., Detectron; He et al. 2019, appendix B.
    """

    short_px: tuple[int, ...]
    """Lengths of the shorter side in training, of which one is drawn for each image."""
    test_short_px: int
    """Length of the shorter side in scoring."""
    longest_px: int
    """Most that the longer side may have; the shorter one gives way."""
    flip_probability: float = 0.5
    """Probability of the horizontal flip in training."""

    def __post_init__(self) -> None:
        sides = {
            "short": self.short_px,
            "test-short": self.test_short_px,
            "longest": self.longest_px,
        }
        for name, value in sides.items():
            lengths = value if isinstance(value, tuple) else (value,)
            if not lengths or min(lengths) <= 0:
                raise SettingsError(f"--{name}-px must be above 0 pixels.")

    @property
    def canvas_px(self) -> int:
        """Side of the square that a scaled image is padded to, a multiple of 32."""
        return -(-self.longest_px // 32) * 32


@dataclass(frozen=True, kw_only=True)
class DetectionProtocol:
    """SGD on the losses of Faster R-CNN or Mask R-CNN, all of the encoder's weights included."""

    backbone: Backbone = "c4"
    """c4: the encoder's last stage works on regions; fpn: a feature pyramid of all stages."""
    masks: bool = False
    """Whether each object's mask is predicted, too (Mask R-CNN)."""
    steps: int
    """Steps of the training."""
    batch: int = 16
    """Images of one step, over all workers; the rate is not scaled by it."""
    rate: float
    """Highest learning rate."""
    falls: tuple[int, ...]
    """Steps from which on the rate is a tenth of before."""
    warmup_steps: int
    """Steps in which the rate rises, in a line, to its highest."""
    warmup_factor: float = 1 / 3
    """Share of the highest rate that it begins with."""
    momentum: float = 0.9
    weight_decay: float = 1e-4
    """Of all weights; biases and normalisations included."""
    rpn_weight: float = 1.0
    """Weight of the two losses of the region proposal network; 1 is detectron2's. The authors of
    Barlow Twins are said to have taken 0.2 for VOC; the text of the paper does not tell."""
    scaling: SceneScaling
    score_every: int
    """Steps between two scorings."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "rate", "rpn_weight", "score_every"):
            if getattr(self, name) <= 0:
                raise SettingsError(f"--{name.replace('_', '-')} must be above 0.")

    def lasting(self, steps: int) -> "DetectionProtocol":
        """The same schedule in so many steps: falls, warm-up and scorings move in proportion."""

        def moved(step: int) -> int:
            return round(step * steps / self.steps)

        return replace(
            self,
            steps=steps,
            falls=tuple(map(moved, self.falls)),
            warmup_steps=moved(self.warmup_steps),
            score_every=max(1, moved(self.score_every)),
        )

    def rate_factor(self, step: int) -> float:
        """Share of the highest rate in `step`, counted from 0."""
        warm = 1.0
        if step < self.warmup_steps:
            done = step / self.warmup_steps
            warm = self.warmup_factor * (1 - done) + done
        return warm * float(0.1 ** sum(step >= fall for fall in self.falls))


_PUBLISHED_SIZES = SceneScaling(
    short_px=tuple(range(480, 801, 32)), test_short_px=800, longest_px=1333
)
VOC = DetectionProtocol(
    steps=24_000, rate=0.1, falls=(18_000, 22_000), warmup_steps=1000,
    scaling=_PUBLISHED_SIZES, score_every=4000,
)  # fmt: skip
"""Table 4, VOC07+12: trained on trainval07+12, scored on test2007."""
COCO = replace(
    VOC, masks=True, steps=90_000, rate=0.03, falls=(60_000, 80_000),
    scaling=replace(_PUBLISHED_SIZES, short_px=tuple(range(640, 801, 32))), score_every=15_000,
)  # fmt: skip
"""Table 4, COCO's 1× schedule: trained on train2017, scored on val2017."""
SMALL = DetectionProtocol(
    backbone="fpn", steps=400, batch=4, rate=0.01, falls=(300, 360), warmup_steps=50,
    scaling=SceneScaling(short_px=(192, 224, 256), test_short_px=224, longest_px=352),
    score_every=100,
)  # fmt: skip
"""For a few hundred images and two CPU cores; these choices are ours. A pyramid, since C4 computes
a stage of the encoder anew for each region, which takes a CPU many times as long."""
