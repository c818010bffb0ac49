"""How far a preparation is, where there is no terminal."""

import pytest

from pipelines import count_line
from pipelines.count_line import CountLine


def test_plain_lines_tell_speed_and_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One every ten seconds and the last; what an earlier start did is no speed of this one."""
    now = [100.0]
    monkeypatch.setattr(count_line.time, "monotonic", lambda: now[0])
    with CountLine() as line:
        for done in (4_000, 4_100, 4_500, 5_000, 6_000):
            line.show("written", done, 6_000)
            now[0] += 5.0
    assert capsys.readouterr().err.splitlines() == [
        "4,000 of 6,000 images written",
        "5,000 of 6,000 images written · 67 images/s · 0:00:15 left",
        "6,000 of 6,000 images written · 100 images/s · 0:00:00 left",
    ]
