"""A run's newest measures as Prometheus metrics, which Ray exports beside its own."""

from ray.util.metrics import Gauge

from bt_ray.tracking.tracker import Measures

GAUGES = {
    "train/loss": ("loss", "Loss of the last step that was logged."),
    "train/epoch": ("epoch", "Epochs trained."),
    "train/skipped_steps": ("skipped_steps", "Steps that fp16 has left out."),
    "time/images_per_s": ("images_per_s", "Images a second, of all workers."),
    "time/data_wait_share": ("data_wait_share", "Share of time in which data were waited for."),
    "time/step_s": ("step_s", "Seconds of a step."),
    "time/checkpoint_s": ("checkpoint_s", "Seconds until the last checkpoint was kept."),
    "data/replaced_images": ("replaced_images", "Images that could not be decoded, so far."),
}
"""Measure → its metric's name after `ray_bt_ray_`, and its help."""

_RUN = "run"


class PrometheusTracker:
    """Sets gauges of the Ray process that it lives in; they end with that process.

    Args:
      run: the run's name, which all its metrics have as the label `run`.
    """

    def __init__(self, run: str) -> None:
        self._tags = {_RUN: run}
        self._step = _gauge("step", "Steps trained.")
        self._gauges = {measure: _gauge(name, text) for measure, (name, text) in GAUGES.items()}
        self._newest: dict[str, float] = {}

    def log(self, step: int, measures: Measures, time_ms: int | None = None) -> None:
        """Sets the gauges, also those of earlier measures.

        Ray exports only what was set within the last seconds. Prometheus takes its own time.
        """
        self._newest |= {name: measures[name] for name in self._gauges if name in measures}
        self._step.set(step, self._tags)
        for name, value in self._newest.items():
            self._gauges[name].set(value, self._tags)


def _gauge(name: str, text: str) -> Gauge:
    return Gauge(f"bt_ray_{name}", text, tag_keys=(_RUN,))
