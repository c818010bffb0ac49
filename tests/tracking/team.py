"""A team's MLflow, on loopback: PostgreSQL, an object store, and a server that wants a password."""

import os
import secrets
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from benchmarks.ray_nodes import free_ports
from tests.object_store import CREDENTIALS, object_store
from tests.postgres import serve_postgres

BUCKET = "team"
_CONFIG = """[mlflow]
default_permission = READ
database_uri = {database}
admin_username = keeper
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 60
"""


@dataclass(frozen=True)
class Team:
    """A server, and who may use it: `admin` may do everything, by this password."""

    uri: str
    admin: str
    password: str
    log: Path

    def users(self, user: str, password: str) -> dict[str, str]:
        """The environment of a client that is this user."""
        return {
            "MLFLOW_TRACKING_URI": self.uri,
            "MLFLOW_TRACKING_USERNAME": user,
            "MLFLOW_TRACKING_PASSWORD": password,
        }


@contextmanager
def team_mlflow(folder: Path) -> Iterator[Team]:
    """An MLflow server with all of that; artifacts go through it."""
    if find_spec("psycopg") is None or find_spec("flask_wtf") is None:
        pytest.skip("needs psycopg and Flask-WTF: pip install bt-ray[postgresql,team]")
    password = secrets.token_hex(8)
    (port,) = free_ports(1)
    with ExitStack() as stack:
        database = stack.enter_context(serve_postgres())
        options = stack.enter_context(object_store(BUCKET))
        store = options.partition("endpoint_override=")[2].partition("&")[0]
        config = folder / "auth.ini"
        config.write_text(_CONFIG.format(database=database))
        log = folder / "server.log"
        environment = os.environ | CREDENTIALS | {
            "MLFLOW_BACKEND_STORE_URI": database,
            "MLFLOW_S3_ENDPOINT_URL": f"http://{store}",
            "MLFLOW_AUTH_CONFIG_PATH": str(config),
            "MLFLOW_AUTH_ADMIN_PASSWORD": password,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
        }  # fmt: skip
        environment.pop("MLFLOW_TRACKING_URI", None)
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}",
             "--workers=2", "--app-name=basic-auth", "--serve-artifacts",
             f"--artifacts-destination=s3://{BUCKET}/runs"],
            cwd=folder, env=environment, stdout=log.open("w"), stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            _wait_for_server(process, port, log)
            yield Team(f"http://127.0.0.1:{port}", "keeper", password, log)
        finally:
            if process.poll() is None:
                server = psutil.Process(process.pid)
                for member in (*server.children(recursive=True), server):
                    member.kill()
            process.wait()


def _wait_for_server(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    for _ in range(480):
        if process.poll() is not None:
            raise RuntimeError(f"MLflow's server ended: {log.read_text()[-2000:]}")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
            return
        except OSError:
            time.sleep(0.5)
    raise TimeoutError("MLflow's server does not start.")
