"""A choice: what was set, to what, and why; and the rules that need no measurement."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bt_ray.advice.recipes import TINY_PX
from bt_ray.advice.survey import Survey

FEWEST_IMAGES = 16
"""Images below which nothing can be learned: the smallest batch needs four steps an epoch."""
FEWEST_EPOCHS, MOST_EPOCHS = 20, 300
SHARE_FOR_TRAINING = 0.9
"""Of the hours that a run may take: the rest is for its start, its probes and checkpoints."""
_STEPS_AN_EPOCH, _STEPS_OF_LARGE_BATCHES = 4, 200
_SMALLEST_BATCH, _USUAL_BATCH, _LARGEST_BATCH = 4, 256, 1024
WEIGHT_RATES = {64: 1.0, 128: 0.7, 256: 0.4, 512: 0.3, 1024: 0.25, 2048: 0.2}
"""Batch → base rate of weights that the authors found best for 300 epochs of ImageNet; that of 64
is their guess (facebookresearch/barlowtwins, issue 7). Smaller batches take that of 64."""
SHORT_RUN_IMAGES = 50_000_000
"""Images seen in all, below which weights would hardly move at the paper's trust coefficient: 40
epochs of ImageNet. The paper's shortest runs saw 384 million."""
_SHORT_RATE, _SHORT_TRUST, _PAPERS_TRUST = 0.2, 0.02, 0.001


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Settings that belong together, and one sentence of why they are so."""

    what: str
    """In plain words."""
    changes: Mapping[str, Any]
    """Dotted key → value."""
    value: str
    """In plain words."""
    why: str


def choose_batch(count: int, *, has_gpu: bool) -> Choice:
    """The largest power of two that leaves an epoch enough steps."""
    most = max(_SMALLEST_BATCH, count // _STEPS_AN_EPOCH)
    usual = min(most, _USUAL_BATCH)
    large = min(count // _STEPS_OF_LARGE_BATCHES, _LARGEST_BATCH) if has_gpu else 0
    batch = _power_of_two(max(usual, large))
    why = f"a power of two that leaves {count // batch:,} steps an epoch"
    if batch >= _USUAL_BATCH:
        why += "; the paper saw hardly a difference from 256 on (Fig. 2)"
    return Choice(
        what="batch", changes={"data.global_batch": batch}, value=f"{batch:,}", why=f"{why}."
    )


def choose_views(survey: Survey, image_px: int) -> Choice:
    """Distortions that keep what is in the image recognizable."""
    changes: dict[str, Any] = {"views.image_px": image_px, "views.photometry": "device"}
    value, why = "BYOL's, as in the paper", "photos bear strong crops, colours and blur"
    if image_px < 64:
        changes |= {"views.crop_area": (0.2, 1.0), "views.blur_probability": (0.0, 0.0)}
        value, why = "milder crops, no blur", "little is left of small images that are blurred"
    if survey.sides[1] < TINY_PX:
        changes |= {"views.crop_area": (0.5, 1.0), "views.solarize_probability": (0.0, 0.0)}
        value, why = "mild crops, no blur, no solarization", "so few pixels bear no more"
    if survey.is_grey:
        changes |= {
            "views.jitter_saturation": 0.0, "views.jitter_hue": 0.0,
            "views.grayscale_probability": 0.0,
        }  # fmt: skip
        value, why = f"{value}; no change of colours", f"{why}, and these images are grey"
    why += "; give --views.flip-probability 0 if left and right differ in meaning, as in letters"
    return Choice(what="views", changes=changes, value=value, why=f"{why}.")


def choose_rate(batch: int, total_images: float) -> Choice:
    """Base rate of the weights, and LARS's trust coefficient.

    Args:
      total_images: images seen in all epochs.
    """
    if total_images < SHORT_RUN_IMAGES:
        rate, trust = _SHORT_RATE, _SHORT_TRUST
        why = (
            f"{total_images / 1e6:,.1f} million images are a short run, in which weights would "
            "hardly move at the paper's 0.001; so the presets for small sets have it"
        )
    else:
        known = max((b for b in WEIGHT_RATES if b <= batch), default=min(WEIGHT_RATES))
        rate, trust = WEIGHT_RATES[known], _PAPERS_TRUST
        why = f"the authors' best for a batch of {known} (facebookresearch/barlowtwins, issue 7)"
    return Choice(
        what="learning rate",
        changes={"optimizer.weight_rate": rate, "optimizer.trust_coefficient": trust},
        value=f"{rate:g}, trust coefficient {trust:g}",
        why=f"{why}.",
    )


def choose_epochs(hours: float, hours_an_epoch: float | None) -> Choice:
    """As many as there is time for, up to those of the paper's ablations.

    Args:
      hours: that the run may take.
      hours_an_epoch: none if it cannot be told here.
    """
    if hours_an_epoch is None:
        epochs = MOST_EPOCHS
        why = "as in the paper's ablations; how long they take cannot be told here"
    else:
        epochs = max(1, min(MOST_EPOCHS, int(SHARE_FOR_TRAINING * hours / hours_an_epoch)))
        why = f"they take about {_words(epochs * hours_an_epoch)} here"
        if epochs < MOST_EPOCHS:
            why += f", which leaves probes a tenth of the {hours:g} hours given (--hours)"
        else:
            why += "; the paper's ablations have as many"
    warmup = min(10.0, max(1.0, epochs // 20))
    changes = {
        "schedule.epochs": epochs,
        "schedule.warmup_epochs": warmup,
        "training.probe_every_epochs": float(max(1, epochs // 6)),
        "training.checkpoint_every_epochs": float(max(1, epochs // 6)),
    }
    value = f"{epochs:,}, the first {warmup:g} to warm up"
    return Choice(what="epochs", changes=changes, value=value, why=f"{why}.")


def _power_of_two(most: int) -> int:
    """The largest that is no more."""
    return 1 << (most.bit_length() - 1)


def _words(hours: float) -> str:
    return f"{60 * hours:,.0f} minutes" if hours < 1.5 else f"{hours:,.1f} hours"
