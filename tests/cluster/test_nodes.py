"""Nodes that are made of namespaces are as apart as machines are."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.nodes import HEAD, Nodes, address, make_nodes, name

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Iterator[Nodes]:
    private = tmp_path_factory.mktemp("private")
    with make_nodes(tmp_path_factory.mktemp("logs"), shared=[shared], private=[private]) as made:
        made.space(HEAD)
        made.space(2)
        yield made


def _shell(nodes: Nodes, number: int, script: str) -> str:
    done = nodes.run(number, ["bash", "-c", script])
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _reaches(nodes: Nodes, number: int, to: int) -> bool:
    """Whether a connection comes about: refused is an answer, too; none within a second is not."""
    script = (
        "import socket, sys\n"
        f"try: socket.create_connection(({name(to)!r}, 9), timeout=1)\n"
        "except ConnectionRefusedError: pass\n"
        "except OSError: sys.exit(1)"
    )
    return nodes.run(number, [sys.executable, "-I", "-c", script]).returncode == 0


def test_each_has_a_name_and_an_address_that_all_know(nodes: Nodes) -> None:
    for number in (HEAD, 2):
        assert _shell(nodes, number, "hostname") == name(number)
        assert _shell(nodes, number, "hostname --ip-address") == address(number)
    assert _shell(nodes, 2, f"getent hosts {name(HEAD)}").split() == [address(HEAD), name(HEAD)]


def test_folders_are_private_but_for_those_that_are_shared(nodes: Nodes, shared: Path) -> None:
    _shell(nodes, 2, f"echo 2 > /tmp/mine; echo 2 > /dev/shm/mine; echo 2 > {shared}/ours")
    assert _shell(nodes, HEAD, f"cat {shared}/ours; ls /tmp/mine /dev/shm/mine 2>&1 | wc -l") == (
        "2\n2"
    )
    assert not Path("/tmp/mine").exists()
    assert (shared / "ours").read_text() == "2\n"


def test_a_node_sees_no_process_but_its_own(nodes: Nodes) -> None:
    sleeper = nodes.begin(2, ["sleep", "77"])
    while "sleep 77" not in _shell(nodes, 2, "ps -eo args"):
        time.sleep(0.05)
    assert "sleep 77" not in _shell(nodes, HEAD, "ps -eo args")
    nodes.signal(sleeper, signal.SIGTERM)
    assert sleeper.wait(timeout=10) == -signal.SIGTERM


def test_a_cable_is_pulled_and_plugged_in_again(nodes: Nodes) -> None:
    assert _reaches(nodes, HEAD, 2)
    nodes.cut(2)
    assert not _reaches(nodes, HEAD, 2)
    nodes.mend(2)
    assert _reaches(nodes, HEAD, 2)


def test_a_killed_node_leaves_nothing_and_begins_anew(nodes: Nodes) -> None:
    sleeper = nodes.begin(2, ["bash", "-c", "echo 2 > /tmp/mine; sleep 77"])
    _shell(nodes, 2, "until [ -e /tmp/mine ]; do sleep 0.05; done")
    nodes.kill(2)
    assert sleeper.wait(timeout=10) != 0
    nodes.space(2)
    assert _shell(nodes, 2, "ls /tmp/mine 2>&1 | wc -l; ps -e | grep -c sleep") == "1\n1"


def test_ray_joins_dies_with_its_node_and_joins_again(nodes: Nodes) -> None:
    nodes.join(HEAD, cpus=1)
    nodes.join(2, cpus=3)
    cpus = {place: resources["CPU"] for place, resources in nodes.alive().items()}
    assert cpus == {address(HEAD): 1, address(2): 3}
    nodes.kill(2)
    nodes.join(2, cpus=5)
    seen: list[float] = []
    for _ in range(20):  # the head misses the killed one after some heartbeats
        seen = sorted(node["CPU"] for node in nodes.alive().values())
        if seen == [1, 5]:
            break
        time.sleep(1)
    assert seen == [1, 5]


def test_nothing_is_left_when_the_context_ends(tmp_path: Path) -> None:
    with make_nodes(tmp_path) as other:
        other.space(3)
        process = other.begin(3, ["sleep", "77"])
        listed = subprocess.run(["ip", "link"], capture_output=True, text=True, check=True).stdout
        [bridge] = {line.split()[1] for line in listed.splitlines() if f": {other.tag}:" in line}
    assert process.wait(timeout=10) != 0
    listed = subprocess.run(["ip", "link"], capture_output=True, text=True, check=True).stdout
    assert bridge not in listed
