"""How a classifier is trained on an encoder: as published, and in small for two cores."""

from dataclasses import dataclass, replace
from typing import Literal

from bt_ray.config import DataSettings, ScalingSettings, Settings
from bt_ray.errors import SettingsError
from bt_ray.optim.schedule import cosine_by_epoch, staircase


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """SGD on the cross-entropy of a linear layer's logits, with one augmented view an image."""

    epochs: int
    """Passes over the training images."""
    batch: int = 256
    """Images of one step, over all workers; the rates are not scaled by it."""
    head_rate: float
    """First learning rate of the linear layer."""
    encoder_rate: float | None = None
    """First learning rate of the encoder; none: it is frozen, in eval mode."""
    momentum: float = 0.9
    weight_decay: float
    """Of all trained parameters, biases included."""
    falls: tuple[int, ...] = ()
    """Epochs from which on the rates are a tenth of before; none: a cosine, epoch by epoch."""
    standardize: bool = False
    """Whether the features are standardised before the linear layer, so that one rate suits
    features of any scale."""
    crop_area: tuple[float, float] | None = (0.08, 1.0)
    """Area of the random crop, as a share of the image; none: that of the encoder's own views."""
    flip_probability: float | None = 0.5
    """Probability of the horizontal flip; none: that of the encoder's own views."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "head_rate"):
            if getattr(self, name) <= 0:
                raise SettingsError(f"--{name.replace('_', '-')} must be above 0.")
        if self.encoder_rate is not None and self.encoder_rate <= 0:
            raise SettingsError(
                f"--encoder-rate {self.encoder_rate} must be above 0; `linear` freezes the encoder."
            )

    @property
    def frozen(self) -> bool:
        """Whether the encoder stays as it is."""
        return self.encoder_rate is None

    def rate_factor(self, epoch: int) -> float:
        """Share of the first learning rates in `epoch`, counted from 0."""
        if self.falls:
            return staircase(epoch, self.falls)
        return cosine_by_epoch(epoch, self.epochs)

    def settings(
        self,
        encoder: Settings,
        *,
        name: str,
        storage: str,
        data: DataSettings,
        scaling: ScalingSettings,
        precision: Literal["fp32", "bf16", "fp16"],
        seed: int,
    ) -> Settings:
        """The settings of a classifier's training: those of pretraining, changed by the protocol.

        Views are cropped and flipped, never recoloured. Resizing is bicubic, as in pretraining; the
        code of Zbontar et al. has torchvision's bilinear here.

        Args:
          encoder: the settings of the run that trained the encoder.
          data: the images to learn from, and to score on; they are decoded and normalised as in
            the encoder's run.
        """
        views = encoder.views.without("jitter", "grayscale", "blur", "solarize")
        own_flip = views.flip_probability
        return replace(
            encoder,
            name=name,
            storage=storage,
            data=replace(data, global_batch=self.batch).decoded_as(encoder.data),
            views=replace(
                views,
                count=1,
                small_count=0,
                photometry="loader",
                crop_area=self.crop_area or views.crop_area,
                flip_probability=(
                    own_flip if self.flip_probability is None else self.flip_probability
                ),
            ),
            model=replace(encoder.model, start_from=None, start_sha256=None),
            schedule=replace(encoder.schedule, epochs=self.epochs, warmup_epochs=0),
            training=replace(
                encoder.training,
                precision=precision,
                seed=seed,
                keep_best=False,
                patience=None,
                average_decay=None,
                # Of few images, an epoch takes less time than scoring.
                probe_every_epochs=max(1, self.epochs // 10) if self.frozen else self.epochs,
                checkpoint_every_epochs=max(1, self.epochs // 20),
            ),
            scaling=scaling,
        )


LINEAR = Protocol(epochs=100, head_rate=0.3, weight_decay=1e-6)
"""Table 1, as the authors' code does it."""
LINEAR_SMALL = Protocol(
    epochs=10, head_rate=0.3, weight_decay=1e-6, standardize=True,
    crop_area=None, flip_probability=None,
)  # fmt: skip
"""A tenth of the epochs, standardised features, the crops and flips of the encoder's training;
these choices are ours."""
SEMI = Protocol(epochs=20, head_rate=0.5, encoder_rate=0.005, weight_decay=0.0)
"""Table 2, as the authors' code does it at 1 % of the labels. The same serves 10 %, by an author's
word: "we used the same hyper-parameters for 1% and 10%" (facebookresearch/barlowtwins issue 14)."""
SEMI_SMALL = Protocol(
    epochs=60, batch=50, head_rate=0.05, encoder_rate=0.005, weight_decay=0.0,
    crop_area=None, flip_probability=None,
)  # fmt: skip
"""For a few hundred images, which a batch of 256 would hardly divide. Ours: the rates were chosen
for CIFAR-10 at 1 %, on training images that are in neither subset."""
SEMI_SMALL_SCRATCH = replace(SEMI_SMALL, head_rate=0.02, encoder_rate=0.02)
"""The same from untrained weights, with rates that were chosen for it in the same way."""
PLACES205 = Protocol(epochs=14, head_rate=0.01, weight_decay=5e-4, falls=(5, 10))
INATURALIST18 = Protocol(epochs=84, head_rate=0.01, weight_decay=5e-4, falls=(24, 48, 72))
"""Table 3, epochs and rates as usual in the literature; the decay is that of VISSL's settings."""
