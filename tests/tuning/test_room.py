"""Where trials have room and memory, on clusters that are made up."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bt_ray.config import Settings, override
from bt_ray.errors import SettingsError
from bt_ray.presets import preset
from bt_ray.training import cluster
from bt_ray.tuning import fitting, room
from bt_ray.tuning.claim import claim_folder
from bt_ray.tuning.fitting import Place, check_memory, find_place
from bt_ray.tuning.order import SweepOrder
from bt_ray.tuning.room import Room, count_places, settle
from bt_ray.tuning.space import load_space
from tests.training.test_preflight import V100

GB = 2**30


def settings(**scaling: Any) -> Settings:
    changes: dict[str, Any] = {
        "training.precision": "fp32", "data.global_batch": 144, "scaling.cpus_per_worker": 1,
    }  # fmt: skip
    return override(preset("digits"), changes | {f"scaling.{k}": v for k, v in scaling.items()})


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The nodes that Ray tells of; tests append to them."""
    found: list[dict[str, Any]] = []

    def total() -> dict[str, float]:
        return {
            kind: sum(n["Resources"].get(kind, 0.0) for n in found if n["Alive"])
            for kind in ("CPU", "GPU")
        }

    monkeypatch.setattr(cluster.ray, "nodes", lambda: found)
    monkeypatch.setattr(cluster.ray, "cluster_resources", total)
    return found


def node(number: int, memory: int = 8 * GB, **resources: float) -> dict[str, Any]:
    return {
        "Alive": True,
        "NodeManagerAddress": f"10.0.0.{number}",
        "Resources": {"memory": float(memory), **resources},
    }


@pytest.mark.parametrize(
    ("scaling", "places"),
    [
        ({"workers": 1}, 8),
        ({"workers": 2}, 4),
        ({"workers": 3}, 2),
        ({"workers": 8}, 1),
        ({"workers": 9}, 0),
        ({"workers": 0}, 8),
        ({"workers": 1, "cpus_per_worker": 4}, 4),  # a node of ten CPUs has room for two
        ({"workers": 1, "cpus_per_worker": 0.5, "accelerator": "cpu"}, 16),  # each with a reader
    ],
)
def test_a_trial_has_whole_gpus_and_their_cpus_on_one_node(
    nodes: list[dict[str, Any]], scaling: dict[str, Any], places: int
) -> None:
    nodes += [node(1, CPU=4.0), node(2, CPU=10.0, GPU=4.0), node(3, CPU=10.0, GPU=4.5)]
    assert count_places(settings(**scaling)) == places


def test_a_lost_node_takes_its_places_along(
    nodes: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(room, "_LOOK_EVERY_S", 0.0)
    nodes += [node(i, CPU=9.0, GPU=4.0) for i in (1, 2)]
    one = settings(workers=1)
    as_many, six = Room(one, None, count_places(one)), Room(one, 6, count_places(one))
    asleep = Room(settings(workers=4), 20, 2)  # more than there is room for, as was asked for
    assert [r.now() for r in (as_many, six, asleep)] == [8, 6, 20]
    nodes[1]["Alive"] = False
    assert [r.now() for r in (as_many, six, asleep)] == [4, 2, 19]
    nodes[0]["Alive"] = False
    with caplog.at_level(logging.WARNING):
        assert [r.now() for r in (as_many, six, as_many)] == [1, 1, 1]
    assert caplog.text.count("No living node has room for a trial") == 2  # once each
    nodes += [node(i, CPU=9.0, GPU=4.0) for i in (3, 4, 5)]
    assert [r.now() for r in (as_many, six)] == [12, 6]


def test_no_more_trials_run_than_the_sweeps_node_can_direct(
    nodes: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    nodes += [node(1, 4 * GB, CPU=2.0), node(2, CPU=9.0, GPU=4.0)]
    monkeypatch.setattr(room, "_this_node", lambda: nodes[0])
    with caplog.at_level(logging.WARNING):
        assert room._count_directed(settings(workers=2)) == 2
    assert caplog.text == ""
    one = settings(workers=1)
    assert Room(one, None, 4, room._count_directed(one)).now() == 2
    assert "memory to direct 2 trials at once" in caplog.text
    assert Room(one, 4, 4, 2).now() == 4  # as was asked for
    assert room._count_directed(settings(workers=0)) is None


def test_memory_is_the_smallest_gpus(
    nodes: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes += [node(1, CPU=9.0, GPU=4.0)]
    large, small = replace(V100, memory_bytes=32 * GB), replace(V100, memory_bytes=16 * GB)
    monkeypatch.setattr(cluster, "_examine_nodes", lambda: [large, small])
    place = find_place(settings(workers=4))
    assert place == Place(
        name=f"the {V100.name} on {V100.machine}", memory_bytes=16 * GB, workers=1,
        keeps_copies=False,
    )  # fmt: skip
    monkeypatch.setattr(cluster, "_examine_nodes", list)  # all are taken
    assert find_place(settings(workers=4)) is None


@pytest.mark.parametrize(
    ("workers", "address", "together"),
    [(1, "10.0.0.2", 1), (2, "10.0.0.2", 2), (4, "10.0.0.1", 1), (0, "10.0.0.2", 1)],
)
def test_memory_of_nodes_is_shared_by_a_trials_workers(
    nodes: list[dict[str, Any]], workers: int, address: str, together: int
) -> None:
    nodes += [node(1, 3 * GB, CPU=1.0), node(2, 8 * GB, CPU=9.0), node(3, 99 * GB)]
    place = find_place(settings(workers=workers))
    assert place is not None
    assert address in place.name
    assert place.workers == together


def test_what_a_trial_needs_is_told_in_bytes() -> None:
    place = Place(name="the H100 on node-3", memory_bytes=GB, workers=1, keeps_copies=False)
    wide = settings(workers=1)
    assert check_memory(wide, place) is None
    wide = override(wide, {"model.projector_widths": [64, 4_000_000]})
    misfit = check_memory(wide, place)
    assert misfit is not None
    assert misfit.needed_bytes == fitting.measure_size(wide).memory.total > GB
    assert f"({misfit.needed_bytes:,} bytes)" in misfit.reason
    assert f"the H100 on node-3 has 1.00 GB ({GB:,} bytes)" in misfit.reason
    twice = check_memory(wide, replace(place, workers=2, keeps_copies=True))
    assert twice is not None
    size = fitting.measure_size(wide)
    assert twice.needed_bytes == 2 * size.memory.total + size.checkpoint_bytes
    assert "2 workers need about" in twice.reason


def test_smaller_parts_are_named_where_they_would_fit() -> None:
    images = settings(workers=1)
    whole = fitting.measure_size(images).memory.total
    place = Place(name="the V100", memory_bytes=whole * 4 // 5, workers=1, keeps_copies=False)
    misfit = check_memory(images, place)
    assert misfit is not None
    assert "--training.micro-batch" in misfit.reason


def test_all_trials_compute_alike_whatever_nodes_there_are_by_then(
    nodes: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nodes.append(node(1, CPU=9.0, GPU=4.0))
    cards: list[Any] = [replace(V100, capability=(8, 0))]
    monkeypatch.setattr(cluster, "_examine_nodes", lambda: cards)
    given = override(settings(workers=1), {"training.precision": "auto"})
    space, order = load_space("redundancy_weight"), SweepOrder()
    first = settle(given, claim_folder(tmp_path, space, given, order))
    assert (first.training.precision, first.scaling.accelerator) == ("bf16", "gpu")
    cards.append(V100)  # has no bf16
    again = claim_folder(tmp_path, space, given, order)
    assert settle(given, again) == first
    assert settle(override(given, {"scaling.workers": 0}), again).training.precision == "auto"


def test_a_sweeps_folder_keeps_its_identity(tmp_path: Path) -> None:
    space, given = load_space("redundancy_weight"), settings()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first, again, other = (
        claim_folder(tmp_path / name, space, given, SweepOrder()) for name in ("a", "a", "b")
    )
    assert first.identity == again.identity != other.identity
    with pytest.raises(SettingsError, match=r"with other settings .*held_out"):
        claim_folder(tmp_path / "a", space, given, SweepOrder(held_out=0.2))
