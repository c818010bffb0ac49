"""What a run's own records say of it: how its scores rose, how fast it was, what memory it took."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from bt_ray.config import Settings
from bt_ray.training.local import choose_device

History = Mapping[str, Mapping[int, float]]
"""Metric name → step → value."""
_CURVES = {"knn_top1": "knn/top1", "rankme": "probe/rankme"}
_MEMORY = "system/worker_memory_megabytes"


@dataclass(frozen=True, kw_only=True)
class Measures:
    """What is known of a run that has ended well."""

    scores: dict[str, float] = field(default_factory=dict)
    images_per_s: float | None = None
    peak_memory_mb: float | None = None
    curves: dict[str, list[list[float]]] = field(default_factory=dict)


def curves_of(history: History, steps_per_epoch: float) -> dict[str, list[list[float]]]:
    """[epoch, score] of each probe, by the score's name; without what was not measured."""
    return {
        name: [
            [round(step / steps_per_epoch, 3), round(value, 5)] for step, value in points.items()
        ]
        for name, metric in _CURVES.items()
        if (points := history.get(metric))
    }


def peak_memory_mb(settings: Settings, history: History) -> float | None:
    """The most memory that training took, in MiB; none if nobody looked.

    Without Ray and a GPU it is the most that this process, which must be the run's own, has had
    resident since it began, Python and its libraries included. On a GPU it is the most that was
    allocated there by the first worker. Of a Ray worker without one it is the most that was seen
    resident when measures were taken.
    """
    if settings.scaling.min_workers == 0 and choose_device(settings).type == "cpu":
        return _peak_of_process()
    seen = history.get(_MEMORY)
    return round(max(seen.values()), 1) if seen else None


def _peak_of_process() -> float | None:
    """The most memory that this process has had resident, in MiB; none where no system tells."""
    try:
        import resource
    except ImportError:  # Windows has none
        return None
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, else KiB
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
