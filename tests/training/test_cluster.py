"""What a run asks of the cluster that it joins, before it starts."""

import logging
from typing import Any

import pytest

from bt_ray.config import Settings, override
from bt_ray.errors import LaunchError
from bt_ray.presets import preset
from bt_ray.training import cluster
from tests.training.test_preflight import V100


class Growing:
    """A cluster whose resources are one of a list after the other, at each look; the last stays."""

    def __init__(self, *resources: dict[str, float]) -> None:
        self.resources = list(resources)
        self.asked: list[Any] = []

    def look(self) -> dict[str, float]:
        return self.resources.pop(0) if len(self.resources) > 1 else self.resources[0]


@pytest.fixture
def join(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Joins such a cluster; its GPUs can carry out everything."""
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere")

    def joining(settings: Settings, *resources: dict[str, float]) -> list[Any]:
        growing = Growing(*resources)
        monkeypatch.setattr(cluster.ray, "is_initialized", lambda: True)
        monkeypatch.setattr(cluster.ray, "cluster_resources", growing.look)
        monkeypatch.setattr(
            cluster, "request_resources", lambda bundles: growing.asked.append(bundles)
        )
        monkeypatch.setattr(cluster, "_examine_nodes", list)
        monkeypatch.setattr(cluster, "_POLL_S", 0.01)
        cluster.connect(settings)
        return growing.asked

    return joining


def _settings(**scaling: Any) -> Settings:
    changes: dict[str, Any] = {"data.global_batch": 2048, "scaling.workers": 32}
    return override(preset("digits"), changes | {f"scaling.{k}": v for k, v in scaling.items()})


def test_a_cluster_with_too_few_gpus_is_never_trained_on_by_cpus_in_silence(join: Any) -> None:
    with pytest.raises(
        LaunchError, match=r"=32 need a GPU each; the cluster has 31\..*wait-minutes"
    ):
        join(_settings(), {"CPU": 200.0, "GPU": 31.0})
    assert join(_settings(), {"CPU": 200.0, "GPU": 32.0}) == []
    assert join(_settings(), {"CPU": 200.0}) == []
    assert join(_settings(accelerator="cpu"), {"CPU": 200.0, "GPU": 31.0}) == []


def test_nodes_that_are_still_to_come_are_asked_for_and_waited_for(
    join: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        asked = join(
            _settings(accelerator="gpu", wait_minutes=1, cpus_per_worker=4),
            {"CPU": 2.0},
            {"CPU": 65.0, "GPU": 16.0},
            {"CPU": 129.0, "GPU": 32.0},
        )
    worker = {"CPU": 4.0, "GPU": 1.0}
    assert asked == [[worker] * 32 + [{"CPU": 1.0}], []]
    assert caplog.text.count("Waiting up to 1 minutes for more nodes") == 1


def test_the_wait_has_an_end(join: Any) -> None:
    with pytest.raises(LaunchError, match="the cluster has 8"):
        join(_settings(accelerator="gpu", wait_minutes=0.001), {"CPU": 200.0, "GPU": 8.0})


def test_an_autoscaler_is_asked_without_being_told_to(
    join: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of what the run would take: GPUs only if it is to have them."""
    monkeypatch.setattr(cluster, "has_autoscaler", lambda: True)
    with caplog.at_level(logging.WARNING):
        asked = join(_settings(cpus_per_worker=4), {"CPU": 2.0}, {"CPU": 2.0}, {"CPU": 129.0})
    assert asked == [[{"CPU": 4.0}] * 32 + [{"CPU": 1.0}], []]
    assert "Waiting up to 15 minutes for more nodes" in caplog.text
    assert "--scaling.accelerator gpu wants GPUs" in caplog.text
    with pytest.raises(LaunchError):
        join(_settings(cpus_per_worker=4, wait_minutes=0), {"CPU": 2.0})


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the nodes with GPUs answer; tests append to it."""
    found: list[Any] = []
    monkeypatch.setattr(cluster, "_examine_nodes", lambda: found)
    cluster._warn_without.cache_clear()
    return found


def test_gpus_that_torch_does_not_find_are_told_once_and_held(
    seen: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    seen += ["node2", "node3", "node2"]
    with caplog.at_level(logging.WARNING):
        assert [cluster.find_cards(_settings()) for _ in range(2)] == [None, None]
    assert caplog.text.count("Ray counts GPUs on node2, node3, where torch finds none") == 1


def test_gpus_that_torch_does_not_find_are_refused_where_gpus_are_wanted(seen: list[Any]) -> None:
    seen.append("node2")
    with pytest.raises(LaunchError, match=r"on node2, where torch finds none .*doctor"):
        cluster.find_cards(_settings(accelerator="gpu"))
    seen.append(V100)  # some workers would compute on it, others on CPUs
    with pytest.raises(LaunchError, match="on node2, where torch finds none"):
        cluster.find_cards(_settings())
    seen.remove("node2")
    assert cluster.find_cards(_settings()) == [V100]
