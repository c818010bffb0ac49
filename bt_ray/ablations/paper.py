"""The ablations of section 4, as changes to the settings that they are made on.

Widths and batch sizes are multiples of the settings' own: at the paper's scale (`imagenet_300`)
the cases are the paper's.
"""

from collections.abc import Callable, Sequence

from bt_ray.ablations.methods import byol_heads, with_lines
from bt_ray.ablations.study import Axes, Case, Changes, Study
from bt_ray.config import Settings, Transformation, flatten
from bt_ray.errors import SettingsError

_VARIANT, _BATCH, _RATE = "objective.variant", "data.global_batch", "optimizer.weight_rate"
_WIDTHS, _WEIGHT = "model.projector_widths", "objective.redundancy_weight"
_NO_BATCH_NORM = {"model.projector_batch_norm": False}
_LINEAR = "The paper's scores are of ResNet-50, 300 epochs of ImageNet, linear evaluation."
_PICTURE = "The figure is published as a picture: there are no numbers to stand beside ours."
_PAPERS_BATCH = 2048

_Published = tuple[str, Changes, float, float]


def table5(settings: Settings, axes: Axes) -> Study:
    """The loss: each of its terms, its normalisations, a cross-entropy."""
    rows: tuple[_Published, ...] = (
        ("Baseline", {}, 71.4, 90.2),
        ("Only invariance term (on-diag term)", {_VARIANT: "invariance_only"}, 57.3, 80.5),
        ("Only red. red. term (off-diag term)", {_VARIANT: "redundancy_only"}, 0.1, 0.5),
        ("Normalization along feature dim.", {_VARIANT: "feature_normalization"}, 69.8, 88.8),
        ("No BN in MLP", _NO_BATCH_NORM, 71.2, 89.7),
        (
            "No BN in MLP + no Normalization",
            {**_NO_BATCH_NORM, _VARIANT: "cross_covariance"}, 53.4, 76.7,
        ),
        ("Cross-entropy with temp.", {_VARIANT: "cross_entropy"}, 63.3, 85.7),
    )  # fmt: skip
    section_5 = Case(
        label="Redundancy of one network's auto-correlation (section 5.2)",
        changes={_VARIANT: "auto_correlation"},
    )
    return Study(
        name="table5",
        title="Table 5: loss function explorations",
        cases=(*(_row(*row) for row in rows), section_5),
        notes=(
            _LINEAR,
            f"The temperature of the cross-entropy is not published: ours is "
            f"{settings.objective.temperature:g}, its λ that of the others.",
            "Section 5.2 calls the last row similar to the baseline, and shows no numbers.",
        ),
    )


def table6(settings: Settings, axes: Axes) -> Study:
    """Asymmetry: a predictor behind one network, a stop-gradient behind the other."""
    stop = {"model.stop_gradient": True}
    dimensions = settings.model.projector_widths[-1]
    predictor = {"model.predictor_widths": (dimensions, dimensions)}
    rows: tuple[_Published, ...] = (
        ("Baseline", {}, 71.4, 90.2),
        ("(a) stop-gradient", stop, 70.5, 89.0),
        ("(b) predictor", predictor, 70.2, 89.0),
        ("(c) stop-gradient and predictor", {**stop, **predictor}, 61.3, 83.5),
    )  # fmt: skip
    return Study(
        name="table6",
        title="Table 6: effect of asymmetric settings",
        cases=tuple(_row(*row) for row in rows),
        notes=(
            _LINEAR,
            f"The predictor's two layers are as wide as the embedding, {dimensions:,} (the "
            "paper's: 8192).",
        ),
    )


def table7(settings: Settings, axes: Axes) -> Study:
    """BYOL with larger heads."""
    return byol_heads(settings)


def figure2(settings: Settings, axes: Axes) -> Study:
    """The batch size; the weights' rate is searched for each of them."""
    most = settings.data.global_batch
    batches = [round(v) for v in axes.values] or [most * k // 16 for k in (1, 2, 4, 8, 16, 32)]
    rates = axes.rates or tuple(settings.optimizer.weight_rate * k for k in (1, 1.5, 2.5, 4))
    published = {128: 69.7, 256: 70.7, 512: 71.4, 1024: 71.7, 2048: 71.4, 4096: 70.7}
    is_papers = most == _PAPERS_BATCH
    return Study(
        name="figure2",
        title="Figure 2: effect of batch size",
        axis="batch size",
        cases=tuple(
            Case(
                label=f"{batch:,}",
                changes={_BATCH: batch},
                published=_shares(published.get(batch)) if is_papers else {},
                x=batch,
                candidates=tuple({_RATE: rate} for rate in rates),
            )
            for batch in batches
        ),
        notes=(
            "For each batch size the weights' base rate (times batch / 256) is the best of "
            f"{_words(rates)} on held-out training images, seed {settings.training.seed}.",
            "Published by the authors (ResNet-50, 300 epochs of ImageNet, linear top-1; base "
            "rate): "
            + ", ".join(
                f"{batch}: {top1} ({rate})"
                for (batch, top1), rate in zip(
                    published.items(), (0.7, 0.4, 0.3, 0.25, 0.2, 0.2), strict=True
                )
            )
            + ".",
        ),
    )


def figure3(settings: Settings, axes: Axes) -> Study:
    """The transformations: each left out alone, and one after the other."""
    order: tuple[Transformation, ...] = tuple(
        name for name in ("solarize", "grayscale", "jitter", "blur", "flip", "crop")
        if settings.views.without(name) != settings.views
    )  # fmt: skip
    alone = [(f"without {name}", (name,)) for name in order]
    gone = [order[:many] for many in range(2, len(order) + 1)]
    together = [(f"without {', '.join(names)}", names) for names in gone]
    return Study(
        name="figure3",
        title="Figure 3: effect of removing transformations",
        cases=(
            Case(label="Baseline"),
            *(Case(label=label, changes=_without(settings, *names))
              for label, names in (*alone, *together)),
        ),
        notes=(_PICTURE, "The order in which they are removed is ours."),
    )  # fmt: skip


def figure4(settings: Settings, axes: Axes) -> Study:
    """The projector: its width, the same in all layers, and its depth.

    Source: Zbontar et al. 2021, Fig. 4, whose widest point is "16384-16384-16384" by an author's
    word (facebookresearch/barlowtwins, issue 48).
    """
    own = settings.model.projector_widths[-1]
    widths = [round(v) for v in axes.values] or [own * k // 64 for k in (1, 4, 16, 64, 128)]
    depths = axes.depths or (1, 2, 3)
    return Study(
        name="figure4",
        title="Figure 4: effect of the dimensionality of the projector's last layer",
        axis="dimensions of the embedding",
        cases=tuple(
            Case(
                label=f"{depth} layer{'s' * (depth > 1)}, {width:,} dimensions",
                changes={_WIDTHS: (width,) * depth},
                x=width,
                line=f"{depth} layer{'s' * (depth > 1)}",
            )
            for depth in depths
            for width in widths
        ),
        notes=(
            _PICTURE,
            "All layers of a projector are equally wide, and λ is the same for all of them, as in "
            "the paper (by an author's word: facebookresearch/barlowtwins, issue 48).",
        ),
    )


def figure5(settings: Settings, axes: Axes) -> Study:
    """λ, the weight of the redundancy-reduction term."""
    own = settings.objective.redundancy_weight
    weights = axes.values or tuple(float(f"{own * 10**k:.2g}") for k in (-1, -0.5, 0, 0.5, 1, 1.5))
    return Study(
        name="figure5",
        title="Figure 5: sensitivity to λ",
        axis="λ",
        cases=tuple(
            Case(label=f"{weight:g}", changes={_WEIGHT: weight}, x=weight) for weight in weights
        ),
        notes=(_PICTURE,),
    )


STUDIES: dict[str, Callable[[Settings, Axes], Study]] = {
    build.__name__: build for build in (table5, table6, table7, figure2, figure3, figure4, figure5)
}
_CHOICES = {
    "figure2": {"values", "rates", "methods"},
    "figure3": {"methods"},
    "figure4": {"values", "depths"},
    "figure5": {"values"},
}
"""Which axes of a study may be chosen."""


def build_study(name: str, settings: Settings, axes: Axes) -> Study:
    """The ablation of this name, checked.

    Args:
      settings: of Barlow Twins.
    Raises: SettingsError for an unknown name, an axis the study does not have, a bad value.
    """
    if name not in STUDIES:
        raise SettingsError(f"There is no ablation {name!r}; there are {', '.join(STUDIES)}.")
    method = settings.objective.method
    if method != "barlow_twins":
        raise SettingsError(
            f"objective.method={method}: an ablation begins with settings of Barlow Twins; "
            "figure2 and figure3 take other methods by --methods."
        )
    for axis in ("values", "depths", "rates", "methods"):
        given = getattr(axes, axis)
        if given and axis not in _CHOICES.get(name, set()):
            raise SettingsError(f"{name} has no {axis} to choose; leave --{axis} out.")
        if axis != "methods" and any(value <= 0 for value in given):
            raise SettingsError(f"{axis}={given} must all be above 0.")

    def build(of_method: Settings) -> Study:
        return STUDIES[name](of_method, axes)

    study = with_lines(build, settings, axes.methods) if axes.methods else build(settings)
    study.check(settings)
    return study


def _row(label: str, changes: Changes, top1: float, top5: float) -> Case:
    return Case(label=label, changes=changes, published=_shares(top1, top5))


def _shares(top1: float | None, top5: float | None = None) -> dict[str, float]:
    given = {"top1": top1, "top5": top5}
    return {name: value / 100 for name, value in given.items() if value is not None}


def _without(settings: Settings, *names: Transformation) -> Changes:
    """The settings by which views lose these transformations."""
    before = flatten(settings)
    views = settings.views.without(*names)
    return {
        key: value for key, value in ((f"views.{n}", getattr(views, n)) for n in vars(views))
        if value != before[key]
    }  # fmt: skip


def _words(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)
