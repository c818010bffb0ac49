"""An S3-compatible server on loopback, in a process of its own."""

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import pytest

from benchmarks.ray_nodes import free_ports

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def object_store(bucket: str) -> Iterator[str]:
    """The options that a URI `s3://BUCKET/…?OPTIONS` needs to reach the server's one bucket."""
    if find_spec("moto") is None or find_spec("flask") is None:
        pytest.skip("needs moto[server]: pip install bt-ray[object-store]")
    (port,) = free_ports(1)
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        _make_bucket(f"http://127.0.0.1:{port}/{bucket}")
        yield f"endpoint_override=127.0.0.1:{port}&scheme=http"
    finally:
        server.kill()
        server.wait()


def _make_bucket(url: str) -> None:
    request = urllib.request.Request(url, method="PUT")
    for _ in range(120):
        try:
            urllib.request.urlopen(request, timeout=5).close()
            return
        except OSError:
            time.sleep(0.25)
    raise TimeoutError(f"The object store does not make {url}.")
