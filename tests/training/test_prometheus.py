"""Measures as Prometheus metrics; that a real Prometheus gets them: tests/test_dashboard.py."""

import pytest

from bt_ray.training import prometheus
from bt_ray.training.prometheus import PrometheusTracker


class Exported:
    """Stands for Ray's gauges: `told` is what was set since it was last emptied."""

    def __init__(self) -> None:
        self.told: dict[tuple[str, str], float] = {}

    def gauge(self, name: str, text: str, tag_keys: tuple[str, ...]) -> "Exported.Gauge":
        assert tag_keys == ("run",)
        assert text
        return Exported.Gauge(self, name)

    class Gauge:
        def __init__(self, exported: "Exported", name: str) -> None:
            self.exported, self.name = exported, name

        def set(self, value: float, tags: dict[str, str]) -> None:
            self.exported.told[self.name, tags["run"]] = value


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Exported:
    exported = Exported()
    monkeypatch.setattr(prometheus, "Gauge", exported.gauge)
    return exported


def test_the_newest_of_each_measure_is_set_at_every_step_that_is_logged(exported: Exported) -> None:
    """Ray forgets what is not set again; a checkpoint's seconds come once in many steps."""
    tracker = PrometheusTracker("mine")
    tracker.log(10, {"time/checkpoint_s": 2.5, "train/loss": 9.0, "train/weight_rate": 0.1})
    exported.told.clear()
    tracker.log(20, {"train/loss": 8.0, "data/replaced_images": 3})
    assert exported.told == {
        ("bt_ray_step", "mine"): 20,
        ("bt_ray_checkpoint_s", "mine"): 2.5,
        ("bt_ray_loss", "mine"): 8.0,
        ("bt_ray_replaced_images", "mine"): 3,
    }


def test_names_are_prometheuss_own_kind() -> None:
    """Lower case and underscores, with no prefix that Ray would double."""
    names = [name for name, _ in prometheus.GAUGES.values()]
    assert len(set(names)) == len(names)
    assert all(name.replace("_", "").isalpha() and name.islower() for name in names)
