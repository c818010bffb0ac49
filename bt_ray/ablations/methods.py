"""Other methods beside Barlow Twins: BYOL's heads (Table 7), a line of a figure for each method."""

from collections.abc import Callable
from dataclasses import replace

from bt_ray.ablations.study import Case, Study
from bt_ray.config import Method, Settings
from bt_ray.config.methods import TITLES
from bt_ray.errors import SettingsError
from bt_ray.method_presets import changes_of, with_method

_PAPERS_WIDTH = 8192
"""Of Barlow Twins' projector, of which Table 7's widths are parts."""


def byol_heads(settings: Settings) -> Study:
    """Table 7: BYOL with wider and deeper projectors and predictors, and wider embeddings.

    Widths are to the settings' projector what the paper's are to 8192, which leaves every row
    another one than the others at any scale.
    """
    rows = (
        ("baseline", (4096, 256), (4096, 256), 74.1),
        ("3 layer proj, 2 layer pred, 256-d repr.", (4096, 4096, 256), (4096, 256), 74.0),
        ("3 layer proj, 3 layer pred, 256-d repr.", (4096, 4096, 256), (4096, 4096, 256), 73.2),
        ("3 layer proj, 2 layer pred, 512-d repr.", (4096, 4096, 512), (4096, 512), 73.7),
        ("3 layer proj, 3 layer pred, 512-d repr.", (4096, 4096, 512), (4096, 4096, 512), 73.2),
        ("same proj as BT, 2 layer pred, 8192-d repr.", (8192, 8192, 8192), (8192, 8192), 72.3),
    )
    byol, own = changes_of("byol", settings), settings.model.projector_widths[-1]

    def scaled(widths: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(max(1, width * own // _PAPERS_WIDTH) for width in widths)

    return Study(
        name="table7",
        title="Table 7: BYOL with larger projectors, predictors and embeddings",
        cases=tuple(
            Case(
                label=f"{_joined(scaled(projector))}, predictor {_joined(scaled(predictor))}: "
                f"{description}",
                changes={
                    **byol,
                    "model.projector_widths": scaled(projector),
                    "model.predictor_widths": scaled(predictor),
                },
                published={"top1": top1 / 100},
            )
            for description, projector, predictor, top1 in rows
        ),
        notes=(
            "The paper's scores are of ResNet-50 on ImageNet, linear evaluation; it does not say "
            "after how many epochs. The descriptions are its own, with its widths.",
            f"Widths are the paper's times {own:,} / 8,192.",
        ),
    )


def with_lines(
    build: Callable[[Settings], Study], settings: Settings, methods: tuple[Method, ...]
) -> Study:
    """A figure with a line for each method, whose cases are those of the method's own settings.

    Args:
      build: makes the figure for the settings of one method.
      settings: of Barlow Twins.
    Raises: SettingsError if a method is named twice.
    """
    if len(set(methods)) < len(methods):
        raise SettingsError(f"--methods {' '.join(methods)} must name each method once.")
    studies = {method: build(with_method(settings, method)) for method in methods}
    return replace(
        studies[methods[0]],
        cases=tuple(
            replace(
                case,
                label=f"{TITLES[method]}: {case.label}",
                changes={**changes_of(method, settings), **case.changes},
                published=case.published if method == "barlow_twins" else {},
                line=TITLES[method],
            )
            for method, study in studies.items()
            for case in study.cases
        ),
        notes=(
            *studies[methods[0]].notes,
            "Each method has its own projector, predictor and rate of biases; images, epochs and "
            "the weights' rate are the same for all, unless the rate is searched.",
        ),
    )


def _joined(widths: tuple[int, ...]) -> str:
    return "-".join(map(str, widths))
