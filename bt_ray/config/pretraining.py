"""Whether settings serve to pretrain: what is no fault of a setting, but of this use of it."""

import math

from bt_ray.config.checks import require
from bt_ray.config.data import COLOURS
from bt_ray.config.methods import MULTI_CROP, WITH_PREDICTOR
from bt_ray.config.names import check_names
from bt_ray.config.settings import Settings
from bt_ray.config.training import part_rows


def check_pretraining(settings: Settings) -> None:
    """Raises SettingsError for settings that pretraining cannot use.

    That is one view an image, views that the method lacks or has no use for, and names that MLflow
    or the storage would refuse later.
    """
    method, views = settings.objective.method, settings.views
    require(
        views.count == 2,
        f"views.count={views.count} serves to train a classifier; pretraining compares 2.",
    )
    is_jigsaw = views.small_count > 0 and views.small_kind == "jigsaw"
    require(
        is_jigsaw == (method == "pirl"),
        "objective.method=pirl needs views.small_count=9 and views.small_kind=jigsaw, and no other "
        f"method takes them; there are {views.small_count} of kind {views.small_kind}.",
    )
    require(
        views.small_count == 0 or is_jigsaw or method in MULTI_CROP,
        f"views.small_count={views.small_count}: objective.method={method} takes no smaller views; "
        f"{', '.join(MULTI_CROP)} do.",
    )
    needs = method in WITH_PREDICTOR
    require(
        not needs or settings.model.predictor_widths is not None,
        f"objective.method={method} needs a predictor: model.predictor_widths.",
    )
    require(
        method != "deepcluster" or settings.schedule.epochs > 1,
        "objective.method=deepcluster only fills its memory bank in the first epoch: "
        f"schedule.epochs={settings.schedule.epochs} must be at least 2.",
    )
    if method == "moco_v2":
        _check_groups(settings)
    _check_rows(settings)
    check_names(settings)


def _check_groups(settings: Settings) -> None:
    """Raises SettingsError unless every worker's parts are whole groups of batch norm's rows."""
    rows, batch = settings.objective.moco_v2.norm_rows, settings.data.global_batch
    scaling, micro_batch = settings.scaling, settings.training.micro_batch
    least, most = max(1, scaling.min_workers), max(1, scaling.max_workers)
    whole = math.lcm(*range(least, most + 1)) * rows
    lower, higher = batch // whole * whole, -(-batch // whole) * whole
    others = f"{lower} or {higher}" if lower else f"{higher}"
    require(
        batch % whole == 0,
        f"data.global_batch={batch} must give each of scaling.workers={scaling.workers} whole "
        f"groups of objective.moco_v2.norm_rows={rows} rows, which share batch norm's statistics; "
        f"try data.global_batch={others}, or other norm_rows.",
    )
    for workers in range(least, most + 1):
        share = batch // workers
        fitting = [n for n in range(rows, share + 1, rows) if share % n == 0]
        better = max((n for n in fitting if n <= (micro_batch or share)), default=rows)
        require(
            all(part % rows == 0 for part in part_rows(share, micro_batch)),
            f"training.micro_batch={micro_batch} cuts a worker's {share} rows into parts that are "
            f"no whole groups of objective.moco_v2.norm_rows={rows} rows; try {better}.",
        )


def _check_rows(settings: Settings) -> None:
    """Raises SettingsError if a method would invert covariances of too few rows."""
    method, batch = settings.objective.method, settings.data.global_batch
    dimensions = settings.model.projector_widths[-1]
    require(
        method != "imax" or batch > dimensions,
        f"objective.method=imax needs more images than dimensions: data.global_batch={batch} must "
        f"be above {dimensions}, the last of model.projector_widths.",
    )
    if method != "wmse":
        return
    rows, epsilon = settings.objective.wmse.rows, settings.objective.wmse.epsilon
    require(
        batch % rows == 0,
        f"objective.wmse.rows={rows} must divide data.global_batch={batch}.",
    )
    require(
        rows > dimensions or epsilon > 0,
        f"objective.wmse.rows={rows} must be above {dimensions}, the last of "
        "model.projector_widths, or objective.wmse.epsilon above 0: the covariance of so few rows "
        "has no inverse.",
    )


def idle_colours(settings: Settings) -> str | None:
    """A sentence if views have settings of colours, and images other than three channels."""
    views, channels = settings.views, settings.data.channels
    if channels == COLOURS:
        return None
    jitters = views.jitter_probability > 0
    idle = {
        "jitter_saturation": views.jitter_saturation if jitters else 0,
        "jitter_hue": views.jitter_hue if jitters else 0,
        "grayscale_probability": views.grayscale_probability,
    }
    named = ", ".join(f"views.{name}={value}" for name, value in idle.items() if value)
    if not named:
        return None
    return (
        f"Images of data.channels={channels} have no colours, and what is set of them changes "
        f"nothing ({named}); --views-preset medical_gray and multispectral are for such images."
    )
