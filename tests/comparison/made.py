"""Rows of comparisons that nobody trained, for what is said and drawn of them."""

from bt_ray.ablations.ablate import Plan, Row
from bt_ray.ablations.result import Result
from bt_ray.comparison.outcome import Outcome
from bt_ray.comparison.study import UNTRAINED, Entrants, build_study
from bt_ray.config import Settings, override
from bt_ray.presets import preset

RATES = (0.5, 1.0, 2.0)


def result(seed: int, *, failure: str | None = None, **scores: float) -> Result:
    """A run of this seed at 500 images/s in batches of 256."""
    is_trained = failure is None
    return Result(
        key=f"key{seed}",
        settings={"training.seed": seed, "data.global_batch": 256, "optimizer.weight_rate": 0.1},
        scores=scores,
        failure=failure,
        num_images=1437,
        seconds=90.0,
        revision="r",
        images_per_s=500.0 + seed if is_trained else None,
        peak_memory_mb=700.0 if is_trained else None,
        curves={"knn_top1": [[0.0, 0.5], [1.0, scores["knn_top1"]]]} if is_trained else {},
    )


def outcome(
    knn: dict[str, list[float]], *, untrained: float | None = 0.6, seeds: int = 2
) -> Outcome:
    """A comparison of the methods of `knn` by their scores, one for each seed.

    Their best rate is the middle one, but for the last method's, which is the highest.
    """
    settings: Settings = override(preset("digits"), {"name": "digits"})
    study = build_study(settings, Entrants(methods=tuple(knn), rates=RATES))  # type: ignore[arg-type]
    rows = []
    for number, (case, scores) in enumerate(zip(study.cases, knn.values(), strict=False)):
        best = 2 if number == len(knn) - 1 else 1
        rows.append(
            Row(
                case=case,
                chosen=case.candidates[best],
                searched=tuple(result(0, knn_top1=0.5 + 0.1 * (k == best)) for k in range(3)),
                results=tuple(
                    result(seed, knn_top1=score, linear_top1=score + 0.01)
                    for seed, score in enumerate(scores)
                ),
            )
        )
    of_first = () if untrained is None else tuple(
        result(seed, knn_top1=untrained, linear_top1=untrained) for seed in range(seeds)
    )  # fmt: skip
    rows.append(Row(case=UNTRAINED, chosen={}, searched=(), results=of_first))
    plan = Plan(seeds=seeds, label_percent=1.0, apart=True)
    return Outcome(study=study, settings=settings, plan=plan, multiples=RATES, rows=tuple(rows))
