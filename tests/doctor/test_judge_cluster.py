"""What the doctor says of versions, clocks and the network, from made-up facts."""

from dataclasses import replace
from typing import Any

import pytest

from bt_ray.doctor.examination import ClockFacts, Examination, Orders
from bt_ray.doctor.finding import State
from bt_ray.doctor.judge_cluster import judge_clock, judge_cluster, judge_network, judge_versions
from bt_ray.doctor.network import AllReduce, NetworkFacts
from tests.doctor.facts import NETWORK, NODE, VERSIONS


def test_equal_versions_are_one_finding() -> None:
    [finding] = judge_versions({"a": VERSIONS, "b": VERSIONS})
    assert finding.state == "good"
    assert "torch 2.7.1" in finding.found


@pytest.mark.parametrize(
    ("package", "version", "state"),
    [
        ("torch", "2.9.0", "wrong"),
        ("python", "3.12.1", "wrong"),
        ("bt_ray", "0.2.0, code ffff0000", "wrong"),
        ("torch", "2.7.1+cu126", "note"),
        ("numpy", "2.4", "note"),
    ],
)
def test_a_node_of_another_version_is_named(package: str, version: str, state: State) -> None:
    findings = judge_versions({"a": VERSIONS, "b": VERSIONS, "c": {**VERSIONS, package: version}})
    [other] = [finding for finding in findings if finding.state != "good"]
    assert (other.place, other.state) == (package, state)
    assert f"{VERSIONS[package]} on a, b; {version} on c" in other.advice


@pytest.mark.parametrize(
    ("offset_s", "error_s", "state", "words"),
    [
        (0.1, 0.001, "good", ""),
        (0.6, 0.001, "note", "0.6 s ahead"),
        (5.0, 0.01, "wrong", "5.0 s ahead"),
        (-3600.0, 0.01, "wrong", "3600.0 s behind"),
        (2.0, 1.9, "good", ""),  # as far as such a slow answer can tell
    ],
)
def test_clocks(offset_s: float, error_s: float, state: State, words: str) -> None:
    finding = judge_clock("a", ClockFacts(offset_s=offset_s, error_s=error_s))
    assert finding.state == state
    assert words in finding.advice


def _rate(bus_mb_s: float) -> NetworkFacts:
    one = AllReduce(num_bytes=64 << 20, seconds=67 / bus_mb_s, bus_mb_s=bus_mb_s)
    return replace(NETWORK, sums=(one,))


@pytest.mark.parametrize(
    ("facts", "state", "words"),
    [
        (NETWORK, "good", ""),
        (_rate(60.0), "note", "60 MB/s"),
        (_rate(2.0), "wrong", "2 MB/s"),
        (replace(NETWORK, is_right=False), "wrong", "faulty card or link"),
    ],
)
def test_network(facts: NetworkFacts, state: State, words: str) -> None:
    [finding] = judge_network({"a": facts, "b": facts}, {})
    assert finding.state == state
    assert words in finding.advice


def test_nodes_that_do_not_meet_are_told_which_interface_to_name() -> None:
    refused = NetworkFacts(backend="gloo", num_nodes=2, fault="Connection refused")
    findings = judge_network({"10.0.0.2": refused, "b": None}, {"10.0.0.2": NODE})
    assert [finding.state for finding in findings] == ["wrong", "wrong"]
    assert "GLOO_SOCKET_IFNAME=eth0" in findings[0].advice
    assert "Connection refused" in findings[0].advice
    assert "no answer in time" in findings[1].advice


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        ({"silent": {"b": "no answer within 20 s"}}, "Nothing could be run on b (no answer"),
        ({"faults": ["Nothing answers at RAY_ADDRESS=c:1"]}, "Nothing answers at"),
    ],
)
def test_what_does_not_answer_is_wrong(seen: dict[str, Any], words: str) -> None:
    findings = judge_cluster(Examination(orders=Orders(), is_cluster=True, **seen))
    [wrong] = [finding for finding in findings if finding.state == "wrong"]
    assert words in wrong.advice
