"""A Ray cluster of its own on loopback, as `ray start` makes one."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.ports import free_ports

RAY = str(Path(sys.executable).with_name("ray"))


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
def ray_head(**environment: str) -> Iterator[Head]:
    """A head of four CPUs while the context lasts; it ends with all its processes."""
    ports = free_ports(5)
    # A short path: Ray keeps Unix sockets below it, whose names may have 107 characters.
    temp = Path(f"/tmp/bt_ray_head_{ports[0]}")
    process = subprocess.Popen(
        [RAY, "start", "--head", "--block", "--num-cpus=4", "--node-ip-address=127.0.0.1",
         f"--port={ports[0]}", "--dashboard-host=127.0.0.1", f"--dashboard-port={ports[1]}",
         f"--dashboard-agent-listen-port={ports[2]}", f"--ray-client-server-port={ports[3]}",
         f"--metrics-export-port={ports[4]}", f"--temp-dir={temp}", "--disable-usage-stats"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **environment},
    )  # fmt: skip
    head = Head(f"127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}", temp, process.pid)
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{head.jobs}/api/version", timeout=2).close()
                break
            except urllib.error.HTTPError:  # it is there, and asks for a token
                break
            except OSError:
                time.sleep(0.5)
        yield head
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and all that it has started."""
    family = [*psutil.Process(process.pid).children(recursive=True), process]
    for member in family:
        member.terminate()
    _, alive = psutil.wait_procs(family[:-1], timeout=10)
    for member in (*alive, process):
        member.kill()
    process.wait()
