"""Which network to train: the largest that the images, the memory and the time here allow."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bt_ray.advice.choice import FEWEST_EPOCHS, SHARE_FOR_TRAINING
from bt_ray.advice.recipes import Recipe
from bt_ray.config import Settings
from bt_ray.forecast.forecast import Forecast

Fit = Callable[[Settings], Settings | None]
LookAhead = Callable[[Settings], Forecast]


@dataclass(frozen=True, kw_only=True)
class Network:
    """A recipe that was chosen."""

    recipe: Recipe
    settings: Settings
    """With this network, and a batch that fits into the memory."""
    hours_an_epoch: float | None
    """None if that cannot be told here."""
    why: str


def choose_network(
    candidates: Sequence[tuple[Recipe, Settings]], *, hours: float, fit: Fit, look_ahead: LookAhead
) -> Network:
    """The first of the candidates that fits and has time for some epochs; otherwise the last.

    Args:
      candidates: recipes and settings for them of one epoch, the largest network first.
      hours: that the run may take.
      fit: the settings as they fit into memory, or None.
      look_ahead: forecasts settings.
    """
    passed_over = list[str]()
    for recipe, wanted in candidates:
        is_last = recipe is candidates[-1][0]
        fitted = fit(wanted)
        if fitted is None and not is_last:
            passed_over.append(f"{recipe} does not fit into memory")
            continue
        settings = fitted or wanted
        ahead = look_ahead(settings)
        hours_an_epoch = None if ahead.device is None else ahead.hours
        epochs = float(FEWEST_EPOCHS)
        if hours_an_epoch is not None:
            epochs = SHARE_FOR_TRAINING * hours / hours_an_epoch
        if epochs >= FEWEST_EPOCHS or is_last:
            break
        passed_over.append(f"{recipe} would manage {epochs:,.1f} epochs in {hours:g} hours")
    return Network(
        recipe=recipe,
        settings=settings,
        hours_an_epoch=hours_an_epoch,
        why=_why(passed_over, is_last, candidates),
    )


def _why(
    passed_over: Sequence[str], is_last: bool, candidates: Sequence[tuple[Recipe, Settings]]
) -> str:
    if passed_over:
        others = "; ".join(passed_over)
        return f"the largest for these images that this machine trains in time: {others}."
    if is_last and len(candidates) == 1:
        return "images as small as these need no more."
    return "the largest that pays for so many images of this size."
