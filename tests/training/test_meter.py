"""What the meter says of a run's speed, by a clock of the test's."""

from types import SimpleNamespace
from typing import cast

import pytest

from bt_ray.data.stream.feed import Feed
from bt_ray.presets import preset
from bt_ray.training import meter as metering
from bt_ray.training.meter import Meter


def test_waiting_is_what_the_feed_waited_since_the_last_reading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A probe's time is left out; what was waited before the meter was made does not count."""
    clock, feed = SimpleNamespace(now=100.0), SimpleNamespace(waited_s=50.0)
    monkeypatch.setattr(metering, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    settings = preset("digits")
    meter = Meter(settings, cast(Feed, feed), start_step=6)

    feed.waited_s, clock.now = 52.0, 108.0
    with meter.paused():
        clock.now += 30.0
    read = meter.read(10)
    assert read["time/data_wait_share"] == 2 / 8
    assert read["time/step_s"] == 8 / 4
    assert read["time/images_per_s"] == 4 * settings.data.global_batch / 8

    feed.waited_s, clock.now = 52.5, clock.now + 5.0
    assert meter.read(12)["time/data_wait_share"] == 0.5 / 5
