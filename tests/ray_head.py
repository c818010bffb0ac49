"""A Ray head of its own, with Ray's defaults, as `ray start` makes it."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.ports import free_ports

_RAY = str(Path(sys.executable).parent / "ray")


@contextmanager
def ray_head(num_cpus: int) -> Iterator[tuple[str, psutil.Process]]:
    """Its address, and the process whose descendants are all of its own."""
    port, client, metrics = free_ports(3)
    # A short path: Ray keeps Unix sockets below it, whose names may have 107 characters.
    process = subprocess.Popen(
        [_RAY, "start", "--head", "--block", f"--num-cpus={num_cpus}", "--include-dashboard=false",
         "--node-ip-address=127.0.0.1", f"--port={port}", f"--ray-client-server-port={client}",
         f"--metrics-export-port={metrics}", f"--temp-dir=/tmp/bt_ray_head_{port}",
         "--disable-usage-stats"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    root = psutil.Process(process.pid)
    try:
        assert process.stdout is not None
        deadline = time.monotonic() + 120
        while "Ray runtime started" not in process.stdout.readline():
            assert process.poll() is None
            assert time.monotonic() < deadline
        yield f"127.0.0.1:{port}", root
    finally:
        family = [*root.children(recursive=True), root]
        for member in family:
            member.terminate()
        _, alive = psutil.wait_procs(family[:-1], timeout=10)
        for member in (*alive, root):
            member.kill()
        process.wait()
