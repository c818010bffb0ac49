"""Every table and figure is one of changes to the settings, and shows what the paper has."""

from dataclasses import replace

import pytest

from bt_ray.ablations.paper import STUDIES, build_study
from bt_ray.ablations.study import Axes, Case, Study
from bt_ray.config import Method, override
from bt_ray.config.methods import TITLES
from bt_ray.errors import SettingsError
from bt_ray.method_presets import with_method
from bt_ray.presets import PRESETS, preset


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("study", STUDIES)
def test_every_case_is_one_of_every_preset(study: str, name: str) -> None:
    """Each is a settings tree of its own; one case at most is the preset as it is."""
    settings = preset(name)
    cases = build_study(study, settings, Axes()).cases
    trees = [override(settings, case.changes) for case in cases]
    assert len(set(trees)) == len(cases) >= 4
    assert trees.count(settings) <= 1


def test_the_papers_own_scale_gives_the_papers_cases() -> None:
    """Batch sizes with the authors' scores, widths up to twice the paper's, a wide predictor."""
    settings = preset("imagenet_300")
    batches = {case.x: case.published for case in build_study("figure2", settings, Axes()).cases}
    assert batches[256] == {"top1": pytest.approx(0.707)}
    assert list(batches) == [128, 256, 512, 1024, 2048, 4096]
    widths = [case.changes.popitem()[1] for case in build_study("figure4", settings, Axes()).cases]
    assert {(w,) * 3 for w in (128, 512, 2048, 8192, 16384)} <= set(widths)
    case_b = build_study("table6", settings, Axes()).cases[2]
    assert case_b.changes == {"model.predictor_widths": (8192, 8192)}


def test_published_scores_are_the_papers() -> None:
    """Tables 5 and 6, row by row; figures without published numbers have none."""
    settings = preset("digits")

    def published(name: str) -> list[tuple[float | None, float | None]]:
        cases = build_study(name, settings, Axes()).cases
        return [(case.published.get("top1"), case.published.get("top5")) for case in cases]

    percent = [(71.4, 90.2), (57.3, 80.5), (0.1, 0.5), (69.8, 88.8), (71.2, 89.7), (53.4, 76.7),
               (63.3, 85.7)]  # fmt: skip
    assert published("table5")[:-1] == [pytest.approx((a / 100, b / 100)) for a, b in percent]
    assert published("table5")[-1] == (None, None)
    percent = [(71.4, 90.2), (70.5, 89.0), (70.2, 89.0), (61.3, 83.5)]
    assert published("table6") == [pytest.approx((a / 100, b / 100)) for a, b in percent]
    byol = [74.1, 74.0, 73.2, 73.7, 73.2, 72.3]
    assert published("table7") == [(pytest.approx(top1 / 100), None) for top1 in byol]
    for name in ("figure2", "figure3", "figure4", "figure5"):
        assert set(published(name)) == {(None, None)}


def test_all_layers_are_equally_wide_in_figure_4() -> None:
    """Hidden layers do not keep the preset's width (512 here): all widen together."""
    study = build_study("figure4", preset("digits"), Axes(values=(8, 64), depths=(1, 3)))
    assert [case.changes["model.projector_widths"] for case in study.cases] == [
        (8,), (64,), (8, 8, 8), (64, 64, 64)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "axes", "sentence"),
    [
        ("figure9", Axes(), "no ablation 'figure9'"),
        ("table5", Axes(values=(1.0,)), "table5 has no values"),
        ("figure5", Axes(depths=(1,)), "figure5 has no depths"),
        ("table7", Axes(methods=("byol",)), "table7 has no methods"),
        ("figure2", Axes(methods=("byol", "byol")), "must name each method once"),
        ("figure2", Axes(methods=("wmse",), values=(100.0,)), "rows=128 must divide .*=100"),
        ("figure5", Axes(values=(0.0,)), "must all be above 0"),
        ("figure5", Axes(values=(0.1, 0.1)), "figure5 has '0.1' twice"),
        ("figure2", Axes(rates=(-1.0,)), "must all be above 0"),
        ("figure2", Axes(values=(1,)), "data.global_batch=1 must be at least 2"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(
    name: str, axes: Axes, sentence: str
) -> None:
    """A sentence says what, and the way out."""
    with pytest.raises(SettingsError, match=sentence):
        build_study(name, preset("digits"), axes)


def test_a_candidate_that_is_no_setting_is_refused() -> None:
    """Candidates are checked as the cases are."""
    case = Case(label="a", candidates=({"optimizer.weight_rat": 1.0},))
    study = Study(name="mine", title="Mine", cases=(case,))
    with pytest.raises(SettingsError, match=r"nearest is 'optimizer.weight_rate'"):
        study.check(preset("digits"))
    with pytest.raises(SettingsError, match="is empty"):
        replace(study, cases=()).check(preset("digits"))


def test_table_7_has_the_papers_heads_at_its_scale() -> None:
    """Six of BYOL, with its predictor and rates; elsewhere in proportion."""
    settings = preset("imagenet_300")
    heads = [
        (case.changes["model.projector_widths"], case.changes["model.predictor_widths"])
        for case in build_study("table7", settings, Axes()).cases
    ]
    assert heads == [
        ((4096, 256), (4096, 256)),
        ((4096, 4096, 256), (4096, 256)),
        ((4096, 4096, 256), (4096, 4096, 256)),
        ((4096, 4096, 512), (4096, 512)),
        ((4096, 4096, 512), (4096, 4096, 512)),
        ((8192, 8192, 8192), (8192, 8192)),
    ]
    for case in build_study("table7", preset("digits"), Axes()).cases:
        of_byol = override(preset("digits"), case.changes)
        assert of_byol.objective.method == "byol"
        assert of_byol.optimizer.reference_world_size == 1
        assert max(of_byol.model.projector_widths) in (256, 512)


@pytest.mark.parametrize("name", ["figure2", "figure3"])
def test_a_figure_has_a_line_for_each_method(name: str) -> None:
    """A case of a method is its point, made on the method's own settings."""
    settings = preset("cifar10_small")
    alone = build_study(name, settings, Axes()).cases
    methods: tuple[Method, ...] = ("barlow_twins", "simclr", "byol")
    study = build_study(name, settings, Axes(methods=methods))
    points = [(method, point) for method in methods for point in alone]
    for case, (method, point) in zip(study.cases, points, strict=True):
        assert case.line == TITLES[method]
        assert case.label == f"{TITLES[method]}: {point.label}"
        based = with_method(settings, method)
        assert override(settings, case.changes) == override(based, point.changes)
        assert case.candidates == point.candidates
        assert case.x == point.x


def test_barlow_twins_points_are_the_same_beside_others() -> None:
    """Their results are those of the figure without other methods, and found again."""
    settings = preset("imagenet_300")
    cases = build_study("figure2", settings, Axes(methods=("simclr", "barlow_twins"))).cases
    alone = build_study("figure2", settings, Axes()).cases
    beside = [case for case in cases if case.line == "Barlow Twins"]
    for one, other in zip(beside, alone, strict=True):
        assert override(settings, one.changes) == override(settings, other.changes)
        assert one.published == other.published != {}
    assert all(case.published == {} for case in cases if case.line == "SimCLR")


def test_an_ablation_begins_with_barlow_twins() -> None:
    with pytest.raises(SettingsError, match=r"method=simclr: an ablation begins with .*--methods"):
        build_study("table5", with_method(preset("digits"), "simclr"), Axes())
