"""Ray clusters on loopback, of one raylet or several, as `ray start` makes them.

Several raylets on one address are several nodes to Ray: each has its own CPUs, object store and
processes. They share the machine's cores, disk and network.
"""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

RAY = str(Path(sys.executable).with_name("ray"))
_TRIES, _PAUSE_S = 240, 0.25

NO_TOKEN = {"RAY_AUTH_MODE": "disabled"}
"""For those who talk to such a cluster, unless it was started with a token: nobody else can."""


@dataclass(frozen=True)
class Head:
    """Where a head is: `address` for RAY_ADDRESS, `jobs` of its job server, its folder `temp`.

    `pid`: of the process that all its others descend from.
    """

    address: str
    jobs: str
    temp: Path
    pid: int


@contextmanager
def ray_head(
    num_cpus: float = 4, *, store_mb: int | None = None, **environment: str
) -> Iterator[Head]:
    """A head while the context lasts; it ends with all its processes."""
    ports = free_ports(4)
    # A short path: Ray keeps Unix sockets below it, whose names may have 107 characters.
    temp = Path(f"/tmp/bt_ray_head_{ports[0]}")
    process = _start(
        num_cpus, store_mb, environment,
        ["--head", f"--port={ports[0]}", "--dashboard-host=127.0.0.1",
         f"--dashboard-port={ports[1]}", f"--ray-client-server-port={ports[2]}",
         f"--metrics-export-port={ports[3]}", f"--temp-dir={temp}"],
    )  # fmt: skip
    head = Head(f"127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}", temp, process.pid)
    try:
        for _ in range(_TRIES):
            try:
                urllib.request.urlopen(f"{head.jobs}/api/version", timeout=2).close()
                break
            except urllib.error.HTTPError:  # it is there, and asks for a token
                break
            except OSError:
                time.sleep(_PAUSE_S)
        yield head
    finally:
        end(process)


@contextmanager
def ray_node(
    head: Head, num_cpus: float = 4, *, store_mb: int | None = None, **environment: str
) -> Iterator[int]:
    """One more node of the head's cluster; the id of the process all its others descend from."""
    process = _start(num_cpus, store_mb, environment, [f"--address={head.address}"])
    try:
        for _ in range(_TRIES):
            if raylets(process.pid):
                break
            time.sleep(_PAUSE_S)
        yield process.pid
    finally:
        end(process)


def _start(
    num_cpus: float, store_mb: int | None, environment: dict[str, str], place: list[str]
) -> subprocess.Popen[bytes]:
    store = [] if store_mb is None else [f"--object-store-memory={store_mb * 2**20}"]
    [agent] = free_ports(1)
    return subprocess.Popen(
        [RAY, "start", "--block", f"--num-cpus={num_cpus:g}", "--node-ip-address=127.0.0.1",
         f"--dashboard-agent-listen-port={agent}", "--min-worker-port=0",
         "--max-worker-port=0", "--disable-usage-stats", *store, *place],
        env={**os.environ, **NO_TOKEN, **environment},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def raylets(pid: int) -> list[psutil.Process]:
    """The raylets among the descendants of a process."""
    family = psutil.Process(pid).children(recursive=True)
    return [process for process in family if process.name() == "raylet"]


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and all that it has started."""
    family = _family(process)
    for member in family:
        member.terminate()
    _, alive = psutil.wait_procs(family[:-1], timeout=10)
    for member in (*alive, process):
        member.kill()
    process.wait()


def lose(pid: int) -> None:
    """Kills a node's processes at once, as a machine that is switched off ends them."""
    parent = psutil.Process(pid)
    for member in (parent, *parent.children(recursive=True)):
        member.kill()


def _family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        parent = psutil.Process(process.pid)
        return [*parent.children(recursive=True), parent]
    except psutil.NoSuchProcess:
        return []


def free_ports(count: int) -> list[int]:
    """So many different ports on loopback that nobody listened on a moment ago."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
