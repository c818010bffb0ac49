"""What `pretrain` is told by the doctor before it starts."""

from dataclasses import replace

import pytest

from bt_ray.config import Settings, override
from bt_ray.doctor import start
from bt_ray.doctor.examination import ClockFacts, Examination, Orders
from bt_ray.errors import LaunchError
from tests.doctor.facts import DEVICES, NODE, VERSIONS

OLD_DRIVER = replace(NODE, devices=replace(DEVICES, driver="470.57.02", driver_cuda="11.4"))


def _told(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, examination: Examination
) -> list[str]:
    monkeypatch.setattr(start, "glance", lambda: examination)
    return start.check_start(settings)


def _cluster(**nodes: object) -> Examination:
    return Examination(orders=Orders(), is_cluster=True, own_versions=VERSIONS, nodes=nodes)  # type: ignore[arg-type]


def test_a_healthy_cluster_is_worth_no_word(
    monkeypatch: pytest.MonkeyPatch, small_settings: Settings
) -> None:
    assert _told(monkeypatch, small_settings, _cluster(a=NODE, b=NODE)) == []


def test_other_versions_refuse_the_run(
    monkeypatch: pytest.MonkeyPatch, small_settings: Settings
) -> None:
    other = replace(NODE, versions={**VERSIONS, "torch": "2.9.0"})
    with pytest.raises(LaunchError, match=r"torch must be the same.*2\.9\.0 on b\): install"):
        _told(monkeypatch, small_settings, _cluster(a=NODE, b=other))


def test_faults_that_a_run_survives_are_warned_of(
    monkeypatch: pytest.MonkeyPatch, small_settings: Settings
) -> None:
    examination = _cluster(a=replace(NODE, open_files=1024))
    examination.clocks["a"] = ClockFacts(offset_s=5.0, error_s=0.01)
    clock, files = _told(monkeypatch, small_settings, examination)
    assert "5.0 s ahead" in clock
    assert "ulimit -n" in files


def test_on_one_machine_only_its_devices_count(
    monkeypatch: pytest.MonkeyPatch, small_settings: Settings
) -> None:
    alone = _cluster(a=replace(OLD_DRIVER, open_files=1024))
    alone.is_cluster = False
    [words] = _told(monkeypatch, small_settings, alone)
    assert "driver 525.60 or newer" in words


def test_a_run_without_ray_is_not_held_up(
    monkeypatch: pytest.MonkeyPatch, small_settings: Settings
) -> None:
    without = override(small_settings, {"scaling.workers": 0})
    assert _told(monkeypatch, without, _cluster(a=OLD_DRIVER)) == []


def test_a_cluster_out_of_reach_refuses_the_run(
    monkeypatch: pytest.MonkeyPatch, small_settings: Settings
) -> None:
    examination = _cluster(here=NODE)
    examination.faults.append("Nothing answers")
    with pytest.raises(LaunchError, match="Nothing answers"):
        _told(monkeypatch, small_settings, examination)
