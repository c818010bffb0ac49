"""An emulator of Google Cloud Storage on loopback, in a process of its own.

The emulator speaks the JSON API, by which pyarrow reads and writes. Of the XML API, by which
obstore writes on conditions, it lacks the conditions, the versions in its answers, and DELETE: they
are added here.
"""

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http import HTTPStatus
from importlib.util import find_spec
from typing import Any

import pytest

from benchmarks.ray_nodes import free_ports


@contextmanager
def gcs_emulator(bucket: str, *, on_conditions: bool = True) -> Iterator[str]:
    """The options that a URI `gs://anonymous@BUCKET/…?OPTIONS` needs to reach the one bucket.

    Args:
      on_conditions: whether the XML API has what is added here.
    """
    if find_spec("gcp_storage_emulator") is None:
        pytest.skip("needs gcp-storage-emulator: pip install bt-ray[object-store]")
    (port,) = free_ports(1)
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.gcs_emulator", str(port), bucket, str(on_conditions)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        _await(f"http://127.0.0.1:{port}/storage/v1/b/{bucket}")
        yield f"endpoint_override=127.0.0.1:{port}&scheme=http&retry_limit_seconds=10"
    finally:
        server.kill()
        server.wait()


def _await(url: str) -> None:
    for _ in range(120):
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.25)
    raise TimeoutError(f"The emulator does not answer at {url}.")


def _serve(port: int, bucket: str, on_conditions: bool) -> None:
    """Answers one request after the other: a condition holds until its object is written."""
    from gcp_storage_emulator import server
    from gcp_storage_emulator.exceptions import NotFound
    from gcp_storage_emulator.handlers import objects

    def known(request: Any, storage: Any) -> dict[str, Any]:
        try:
            name = request.params["bucket_name"], request.params["object_id"]
            return dict(storage.get_file_obj(*name))
        except NotFound:
            return {"generation": "0"}

    def tell(request: Any, response: Any, storage: Any) -> None:
        generation = known(request, storage)["generation"]
        response["ETag"] = f'"{generation}"'
        response["x-goog-generation"] = generation
        response["Last-Modified"] = formatdate(usegmt=True)

    def put(request: Any, response: Any, storage: Any) -> None:
        wanted = request.get_header("x-goog-if-generation-match")
        if wanted not in (None, known(request, storage)["generation"]):
            response.status = HTTPStatus.PRECONDITION_FAILED
            return
        objects.xml_upload(request, response, storage)
        tell(request, response, storage)

    def get(request: Any, response: Any, storage: Any) -> None:
        tell(request, response, storage)
        objects.download(request, response, storage)

    if on_conditions:
        xml_api = server.HANDLERS[-1][1]
        xml_api |= {"PUT": put, "GET": get, "DELETE": objects.delete}
    server.create_server("127.0.0.1", port, in_memory=True, default_bucket=bucket).run()


if __name__ == "__main__":
    _serve(int(sys.argv[1]), sys.argv[2], sys.argv[3] == "True")
