"""Draws a sweep: the score against each searched setting, and how each trial ended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

_LOOKS = {
    "finished": ("o", "tab:blue"),
    "pruned": ("v", "tab:orange"),
    "diverged": ("x", "tab:red"),
}
_PANEL_IN, _LOG_RATIO = 4.0, 20.0


@dataclass(frozen=True)
class Point:
    """One trial: its searched settings, how it ended, and its last score, if it has any."""

    params: Mapping[str, Any]
    state: str
    score: float | None


def draw_sweep_points(points: Sequence[Point], *, score: str, title: str, file: Path) -> None:
    """Writes a PNG with one panel for each searched setting: the trials' scores over its values.

    Numbers that span more than a factor of twenty have a logarithmic axis. Pruned trials have their
    last score; diverged ones, and those without a score, are drawn at the lowest score; failed ones
    are not drawn.
    """
    shown = [point for point in points if point.state in _LOOKS]
    names = list(dict.fromkeys(name for point in shown for name in point.params))
    figure = Figure(figsize=(_PANEL_IN * max(1, len(names)), 3.6), layout="constrained")
    panels = figure.subplots(1, max(1, len(names)), sharey=True, squeeze=False)[0]
    for panel, name in zip(panels, names, strict=False):
        _draw_panel(panel, shown, name)
    panels[0].set_ylabel(score)
    panels[-1].legend(fontsize="small")
    figure.suptitle(title)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


def _draw_panel(panel: Axes, points: Sequence[Point], name: str) -> None:
    floor = min((p.score for p in points if p.score is not None), default=0.0)
    has = [point for point in points if name in point.params]
    values = [point.params[name] for point in has]
    is_number = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    places = _positions(values, is_number)
    for state, (marker, color) in _LOOKS.items():
        chosen = [i for i, point in enumerate(has) if point.state == state]
        if chosen:
            heights = [has[i].score if state != "diverged" else floor for i in chosen]
            panel.scatter(
                [places[i] for i in chosen],
                [floor if height is None else height for height in heights],
                marker=marker, color=color, label=state,
            )  # fmt: skip
    panel.set_xlabel(name)
    if not is_number:
        words = list(dict.fromkeys(map(str, values)))
        panel.set_xticks(range(len(words)), words, rotation=30, ha="right", fontsize="small")
    elif min(values) > 0 and max(values) / min(values) > _LOG_RATIO:
        panel.set_xscale("log")


def _positions(values: Sequence[Any], is_number: bool) -> list[float]:
    if is_number:
        return [float(value) for value in values]
    order = list(dict.fromkeys(map(str, values)))
    return [float(order.index(str(value))) for value in values]
