"""From a folder of images to settings that pretraining starts with, each with its reason."""

import math
from dataclasses import dataclass
from functools import partial

from bt_ray.advice.cautions import cautions
from bt_ray.advice.choice import (
    FEWEST_IMAGES,
    Choice,
    choose_batch,
    choose_epochs,
    choose_rate,
    choose_views,
)
from bt_ray.advice.duplicates import Leak, find_leak
from bt_ray.advice.hardware import choose_place, choose_process
from bt_ray.advice.names import find_test, name_anywhere, name_run
from bt_ray.advice.network import LookAhead, Network, choose_network
from bt_ray.advice.recipes import Recipe, recipes
from bt_ray.advice.room import fit, memory_here
from bt_ray.advice.survey import OnProgress, Survey, survey
from bt_ray.config import DataSettings, Settings, override
from bt_ray.data.preparation.prepare import Described, describe_data
from bt_ray.errors import DataError, SettingsError
from bt_ray.forecast.forecast import find_device, forecast

_FEW, _FEW_ROWS = 5_000, 64
"""Sets up to so many images get row groups of so many, to be shuffled well."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked for."""

    train: str
    test: str | None = None
    storage: str = "runs"
    hours: float = 8.0
    """That the run may take here."""
    most_images: int = 10_000
    """Images of each set that are looked at."""

    def __post_init__(self) -> None:
        for name in ("hours", "most_images"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise SettingsError(f"{name}={value} must be a finite number above 0.")


@dataclass(frozen=True, kw_only=True)
class Advice:
    """Settings, and what they rest on."""

    settings: Settings
    choices: tuple[Choice, ...]
    train: Survey
    test: Survey | None
    leak: Leak | None
    """None without held-out images."""
    cautions: tuple[str, ...]


def advise(
    request: Request, *, look_ahead: LookAhead = forecast, on_progress: OnProgress | None = None
) -> Advice:
    """Settings for the images that were asked about, on this machine.

    Args:
      look_ahead: forecasts settings.
      on_progress: hears how many images were looked at.
    Raises: DataError if there are no images, too few, or none that can be decoded; if training
      and held-out images have different classes.
    """
    basis, data = _describe(request)
    _require_enough(data[0], request)
    look = partial(survey, most=request.most_images, on_progress=on_progress)
    train, test = look(data[0]), None if data[1] is None else look(data[1])
    leak = None if test is None else find_leak(test.seen, train.seen)
    settings, choices = _choose(basis, train, test, request.hours, look_ahead)
    return Advice(
        settings=settings,
        choices=choices,
        train=train,
        test=test,
        leak=leak,
        cautions=tuple(cautions(train, test, leak, settings)),
    )


def _require_enough(data: Described, request: Request) -> None:
    """Raises DataError for a handful of images."""
    count = data.manifest.num_rows
    if count < FEWEST_IMAGES:
        raise DataError(
            f"{request.train!r} holds {count} images; pretraining needs at least {FEWEST_IMAGES}. "
            "Add images."
        )


def _choose(
    basis: Settings, train: Survey, test: Survey | None, hours: float, look_ahead: LookAhead
) -> tuple[Settings, tuple[Choice, ...]]:
    """Settings for these images, and how they came about."""
    choices = [_choose_data(basis, train, test), *choose_place(basis)]
    settings = _with(basis, *choices)
    network, views, batch = _choose_network(settings, train, hours, look_ahead)
    epochs = choose_epochs(hours, network.hours_an_epoch)
    total_images = epochs.changes["schedule.epochs"] * train.count
    choices += [
        _model(network.recipe, network.why), views, _as_it_fits(batch, network.settings), epochs,
        choose_rate(network.settings.data.global_batch, total_images),
    ]  # fmt: skip
    settings = _with(network.settings, *choices)
    short = choose_process(settings, network.hours_an_epoch)
    if short is not None:
        choices = [choice for choice in choices if choice.what != short.what] + [short]
        settings = _with(settings, short)
    return settings, tuple(choices)


def _describe(request: Request) -> tuple[Settings, tuple[Described, Described | None]]:
    """Settings that name the images, and the images."""
    train = name_anywhere(request.train)
    given = None if request.test is None else name_anywhere(request.test)
    basis = Settings(
        name=name_run(train, request.storage),
        storage=request.storage,
        data=DataSettings(train=train, test=given),
    )
    found = find_test(train) if given is None else None
    if found is not None:
        beside = override(basis, {"data.test": found})
        try:
            return beside, describe_data(beside)
        except DataError:
            pass  # what nobody named may be anything
    return basis, describe_data(basis)


def _with(settings: Settings, *choices: Choice) -> Settings:
    """The settings with these choices; what belongs together changes at once."""
    return override(settings, {k: v for choice in choices for k, v in choice.changes.items()})


def _choose_data(basis: Settings, train: Survey, test: Survey | None) -> Choice:
    """Labels, held-out images, broken images, row groups."""
    changes = {
        "data.rows_per_row_group": _FEW_ROWS if train.count < _FEW else 256,
        "data.on_bad_image": "skip" if train.unreadable else "stop",
    }
    held_out, why = basis.data.test, "they are scored by kNN while the run trains"
    if sum(size > 0 for size in train.class_sizes.values()) == 1:
        changes["data.labels"], held_out = "none", None
        why = "with one label for all there is nothing to score"
    elif test is None:
        why = "none are known; the run reports what needs no labels"
    elif not test.class_sizes or not train.class_sizes:
        held_out, why = None, "without labels they cannot be scored"
    return Choice(
        what="held-out images", changes=changes | {"data.test": held_out},
        value=held_out or "none", why=f"{why}.",
    )  # fmt: skip


def _choose_network(
    settings: Settings, train: Survey, hours: float, look_ahead: LookAhead
) -> tuple[Network, Choice, Choice]:
    """The network, its views, and the batch as it was before it was fitted into memory."""
    device = find_device(settings)
    has_gpu = device is not None and device.type == "cuda"
    batch = choose_batch(train.count, has_gpu=has_gpu)
    few = override(settings, {"schedule.epochs": 1, "schedule.warmup_epochs": 1.0})
    views_of, candidates = dict[Recipe, Choice](), []
    for recipe in recipes(side=train.sides[1], count=train.count, has_gpu=has_gpu):
        views_of[recipe] = choose_views(train, recipe.image_px)
        candidates.append((recipe, _with(few, _model(recipe), views_of[recipe], batch)))
    here = None if device is None else memory_here(device)
    chosen = choose_network(
        candidates,
        hours=hours,
        fit=lambda s: s if device is None or here is None else fit(s, device, here),
        look_ahead=look_ahead,
    )
    return chosen, views_of[chosen.recipe], batch


def _model(recipe: Recipe, why: str = "") -> Choice:
    changes = {
        "model.encoder": recipe.encoder, "model.stem": recipe.stem,
        "model.projector_widths": 3 * (recipe.width,),
    }  # fmt: skip
    return Choice(what="network", changes=changes, value=str(recipe), why=why)


def _as_it_fits(batch: Choice, settings: Settings) -> Choice:
    """The batch, once settings fit into memory."""
    size = settings.data.global_batch
    again = settings.training.activation_checkpointing
    if size == batch.changes["data.global_batch"] and not again:
        return batch
    return Choice(
        what="batch",
        changes={"data.global_batch": size, "training.activation_checkpointing": again},
        value=f"{size:,}{', blocks computed again in the backward pass' if again else ''}",
        why="the largest power of two that fits into the memory here.",
    )
