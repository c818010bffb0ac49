"""What of a run's settings follows the method that pretrains (`objective.method`).

A preset's settings are those of Barlow Twins. Another method has a projector of its own shape,
perhaps a predictor, other views, and a loss of another size, so that the rates of what LARS does
not adapt are others, too. Each method's changes are its paper's; layers are as wide as there, or
as the preset's widest, if that is less. `optimizer.weight_rate`, which LARS makes independent of
the loss, stays the preset's.
"""

from collections.abc import Callable, Mapping
from typing import Any

from bt_ray.config import Method, OptimizerSettings, Settings, flatten, override

Changes = dict[str, Any]
"""Dotted key of a setting → its value."""
_IMAGES_PER_PROTOTYPE = 10
_BYOL_BY_EPOCHS = {
    40: (0.45, 1e-6, 0.97),
    100: (0.45, 1e-6, 0.99),
    300: (0.3, 1e-6, 0.99),
    1000: (0.2, 1.5e-6, 0.996),
}
"""BYOL's learning rate, weight decay and the target's first momentum, for up to so many epochs."""
_PLAIN: Changes = {
    "views.small_count": 0,
    "views.small_kind": "crops",
    "model.projector_batch_norm": True,
    "model.projector_last_norm": False,
    "model.predictor_widths": None,
    "model.stop_gradient": False,
}
"""What a method has unless its recipe says otherwise."""


def with_method(settings: Settings, method: Method) -> Settings:
    """The settings changed to another method's; as they are if they are that method's already."""
    return override(settings, changes_of(method, settings))


def changes_of(method: Method, settings: Settings) -> Changes:
    """What `with_method` changes."""
    if method == settings.objective.method:
        return {}
    return {"objective.method": method, **_PLAIN, **RECIPES[method](settings)}


def simclr(settings: Settings) -> Changes:
    """Two layers, 2048 and 128 wide, each with batch norm; LARS at 0.3, decay 1e-6.

    Source: Chen et al. 2020a, sections 2.2 and 4.2, and their code.
    """
    return {
        "model.projector_widths": _widths(settings, 2048, 128),
        "model.projector_last_norm": True,
        **_rates(0.3, 1e-6),
    }


def moco_v2(settings: Settings) -> Changes:
    """Two layers, 2048 and 128 wide, without batch norm (Chen et al. 2020b, section 3)."""
    return {
        "model.projector_widths": _widths(settings, 2048, 128),
        "model.projector_batch_norm": False,
        **_rates(0.03, 1e-6),
    }


def simsiam(settings: Settings) -> Changes:
    """Three layers of 2048 with batch norm after each; a predictor with a bottleneck, a quarter.

    Source: Chen and He 2021, section 3 and appendix B.
    """
    widths = _widths(settings, 2048, 2048, 2048)
    return {
        "model.projector_widths": widths,
        "model.projector_last_norm": True,
        "model.predictor_widths": (max(1, widths[-1] // 4), widths[-1]),
        **_rates(0.05, 1e-6),
    }


def byol(settings: Settings) -> Changes:
    """Projector and predictor of two layers, 4096 and 256 wide; rates and momentum by the epochs.

    Source: Grill et al. 2020, section 3.2 (1000 epochs) and 5 (300), and for fewer their code.
    """
    widths, epochs = _widths(settings, 4096, 256), settings.schedule.epochs
    most = min((n for n in _BYOL_BY_EPOCHS if n >= epochs), default=max(_BYOL_BY_EPOCHS))
    bias_rate, weight_decay, momentum = _BYOL_BY_EPOCHS[most]
    return {
        "model.projector_widths": widths,
        "model.predictor_widths": widths,
        "objective.byol.momentum": momentum,
        **_rates(bias_rate, weight_decay),
    }


def swav(settings: Settings) -> Changes:
    """Two layers, the last of 128; LARS at 0.3, decay 1e-6 (Caron et al. 2020, appendix A.1).

    The first layer is 2048 wide, as in their code. Without multi-crop; `views.small_count` adds it.
    The two views are the preset's: on ImageNet they show 8 % of the image or more, as in the
    authors' ablations (appendix A.7); elsewhere theirs show 14 % (A.2).
    """
    return {"model.projector_widths": _widths(settings, 2048, 128), **_rates(0.3, 1e-6)}


def pirl(settings: Settings) -> Changes:
    """One view and nine jigsaw patches of the image; a linear projector of 128.

    Source: Misra and van der Maaten 2020, section 3.2.
    """
    return {
        "views.small_count": 9,
        "views.small_kind": "jigsaw",
        "views.small_crop_area": (0.6, 1.0),
        "views.small_px": max(4, round(settings.views.image_px * 64 / 224)),
        "model.projector_widths": _widths(settings, 128),
        **_rates(0.03, 1e-6),
    }


def wmse(settings: Settings) -> Changes:
    """Two layers, 1024 and 64 wide; sub-batches of 128 rows, or of as many as divide the batch.

    The embedding has at most half as many dimensions as a sub-batch has rows, as there.

    Source: Ermolov et al. 2021, section 4.
    """
    batch, most = settings.data.global_batch, settings.objective.wmse.rows
    rows = max((n for n in range(2, min(batch, most) + 1) if batch % n == 0), default=most)
    return {
        "objective.wmse.rows": rows,
        "model.projector_widths": _widths(settings, 1024, min(64, max(1, rows // 2))),
        **_rates(0.2, 1e-6),
    }


def imax(settings: Settings) -> Changes:
    """Two layers, the last of 64: the covariances of fewer rows than dimensions are singular.

    At most a quarter of the batch. No paper says how wide they were.
    """
    most = max(1, settings.data.global_batch // 4)
    return {"model.projector_widths": _widths(settings, 2048, min(64, most)), **_rates(0.2, 1e-6)}


def deepcluster(settings: Settings) -> Changes:
    """As SwAV (Caron et al. 2020, appendix D)."""
    return swav(settings)


def sela(settings: Settings) -> Changes:
    """As SwAV (Caron et al. 2020, appendix D)."""
    return swav(settings)


def nat(settings: Settings) -> Changes:
    """Two layers, 2048 and 128 wide: the paper's encoder has its own last layers."""
    return {"model.projector_widths": _widths(settings, 2048, 128), **_rates(0.05, 1e-6)}


def vicreg(settings: Settings) -> Changes:
    """Three layers of 8192 (Bardes, Ponce and LeCun 2022, section 4.2); LARS at 0.2, decay 1e-6."""
    return {"model.projector_widths": _widths(settings, 8192, 8192, 8192), **_rates(0.2, 1e-6)}


def barlow_twins(settings: Settings) -> Changes:
    """The paper's rates (Zbontar et al. 2021, section 2.2), for settings that were another's."""
    rates = OptimizerSettings()
    return {
        "optimizer.bias_rate": rates.bias_rate,
        "optimizer.weight_decay": rates.weight_decay,
        "optimizer.reference_world_size": rates.reference_world_size,
    }


RECIPES: Mapping[Method, Callable[[Settings], Changes]] = {
    "barlow_twins": barlow_twins,
    "simclr": simclr,
    "moco_v2": moco_v2,
    "simsiam": simsiam,
    "byol": byol,
    "swav": swav,
    "pirl": pirl,
    "wmse": wmse,
    "imax": imax,
    "deepcluster": deepcluster,
    "sela": sela,
    "nat": nat,
    "vicreg": vicreg,
}


def _widths(settings: Settings, *widths: int) -> tuple[int, ...]:
    """The paper's widths, each at most the widest of the preset's projector."""
    most = max(settings.model.projector_widths)
    return tuple(min(width, most) for width in widths)


def _rates(bias_rate: float, weight_decay: float) -> Changes:
    """Of a loss that is a mean over the batch, whose gradient is the true one (W = 1).

    Args:
      bias_rate: of what LARS does not adapt: the paper's learning rate, for a batch of 256.
    """
    return {
        "optimizer.bias_rate": bias_rate,
        "optimizer.weight_decay": weight_decay,
        "optimizer.reference_world_size": 1,
    }


def fit_to_data(settings: Settings, num_images: int) -> tuple[Settings, str | None]:
    """The settings with no more negatives or prototypes than the data have use for.

    Args:
      num_images: of the training set.
    Returns: them, and a sentence on what was lowered; none if nothing was.
    """
    method, batch = settings.objective.method, settings.data.global_batch
    most = {
        "objective.moco_v2.queue_rows": num_images // batch * batch,
        "objective.swav.prototypes": max(2, num_images // _IMAGES_PER_PROTOTYPE),
        "objective.swav.queue_rows": num_images // batch * batch,
        "objective.deepcluster.prototypes": max(2, num_images // _IMAGES_PER_PROTOTYPE),
        "objective.sela.prototypes": max(2, num_images // _IMAGES_PER_PROTOTYPE),
        "objective.pirl.negatives": max(1, num_images - batch),
    }
    flat = flatten(settings)
    lowered = {
        key: value
        for key, value in most.items()
        if key.startswith(f"objective.{method}.") and flat[key] > value
    }
    if not lowered:
        return settings, None
    told = ", ".join(f"{key} from {flat[key]:,} to {value:,}" for key, value in lowered.items())
    return override(settings, lowered), f"There are {num_images:,} training images: {told}."
