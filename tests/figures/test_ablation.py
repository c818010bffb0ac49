"""The picture of an ablation."""

import numpy as np
from matplotlib.axes import Axes

from bt_ray.figures.ablation import Mark, draw_ablation

CASES = ("Baseline", "without crop")
METHODS = ("Barlow Twins", "SimCLR")


def marks(*, lines: tuple[str, ...] = METHODS, seeds: int = 1) -> list[Mark]:
    """Each line's cases after the other's; scores 0.1, 0.2, … in this order, alike for all seeds
    but for half a point up and down."""
    pairs = [(line, label) for line in lines for label in CASES]
    return [
        Mark(
            label=label,
            x=None,
            line=line,
            scores=[number / 10 + 0.005 * (-1) ** seed for seed in range(seeds)],
        )
        for number, (line, label) in enumerate(pairs, 1)
    ]


def bars(axes: Axes) -> dict[str, list[tuple[float, float]]]:
    """Line → (place, length in per cent) of its bars; places are those of cases."""
    return {
        str(shown.get_label()): [
            (bar.get_y() + bar.get_height() / 2, round(bar.get_width(), 3)) for bar in shown
        ]
        for shown in axes.containers
        if hasattr(shown, "patches")
    }


def draw(shown: list[Mark]) -> tuple[Axes, list[str]]:
    """The only panel, and the words of the figure's legend."""
    figure = draw_ablation({"kNN top-1": shown}, title="T", axis=None, untrained={})
    words = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return figure.axes[0], words


def test_bars_of_one_case_lie_together_and_colours_tell_the_lines() -> None:
    axes, words = draw(marks())
    found = bars(axes)
    assert words == list(METHODS)
    assert [text.get_text() for text in axes.get_yticklabels()] == list(CASES)
    assert [length for _, length in found["Barlow Twins"]] == [10.5, 20.5]
    assert [length for _, length in found["SimCLR"]] == [30.5, 40.5]
    for case in range(len(CASES)):
        first, second = (found[line][case][0] for line in METHODS)
        assert first < case < second, "the first line's bar above, on an axis that points down"
        assert second - first < 0.5
    low, high = axes.get_ylim()
    assert low > high


def test_cases_of_no_line_have_a_bar_each_and_no_legend() -> None:
    axes, words = draw(marks(lines=("",)))
    ((_, found),) = bars(axes).items()
    assert words == []
    np.testing.assert_allclose(found, [(0, 10.5), (1, 20.5)])


def test_only_several_seeds_have_a_spread() -> None:
    def has_spread(seeds: int) -> bool:
        axes, _ = draw(marks(seeds=seeds))
        ends = [np.asarray(line.get_xdata(), dtype=float) for line in axes.lines]
        return bool(np.isfinite(np.concatenate(ends)).any()) if ends else False

    assert has_spread(2)
    assert not has_spread(1)


def test_no_run_that_ended_well_leaves_an_empty_panel() -> None:
    axes, words = draw([])
    assert bars(axes) == {}
    assert words == []
