"""A PostgreSQL server of a test's own, from Debian's package."""

import glob
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.ray_nodes import free_ports

PASSWORD = secrets.token_hex(8)
_STARTS_WITHIN_S = 60
_USER, _HOST = "postgres", "127.0.0.1"


@contextmanager
def serve_postgres() -> Iterator[str]:
    """The URL, password and all, of a server with an empty database, while the context lasts."""
    programs = _find_programs()
    (port,) = free_ports(1)
    folder = Path(tempfile.mkdtemp(prefix="postgres-", dir="/var/tmp"))
    try:
        as_user: list[str] = []
        if os.geteuid() == 0:  # as which PostgreSQL refuses to run
            user = pwd.getpwnam(_USER)
            os.chown(folder, user.pw_uid, user.pw_gid)
            as_user = ["setpriv", "--pdeathsig=INT", f"--reuid={_USER}", f"--regid={_USER}",
                       "--clear-groups"]  # fmt: skip
        secret = folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        subprocess.run(
            [*as_user, programs / "initdb", "-D", folder / "data", "-U", "me", "-A",
             "scram-sha-256", f"--pwfile={secret}", "--no-sync", "-E", "UTF8", "--locale=C"],
            check=True, capture_output=True, cwd=folder,
        )  # fmt: skip
        server = subprocess.Popen(
            [*as_user, programs / "postgres", "-D", folder / "data", "-h", _HOST, "-p", str(port),
             "-k", folder, "-c", "fsync=off", "-c", "log_min_messages=panic",
             "-c", "max_connections=200"],
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            _wait(programs, folder, port, server)
            yield f"postgresql://me:{PASSWORD}@{_HOST}:{port}/postgres"
        finally:
            _end(server)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _find_programs() -> Path:
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/postgres"))  # noqa: PTH207
    name = shutil.which("postgres") or (found[-1] if found else None)
    if name is None:
        pytest.skip("needs PostgreSQL (Debian: postgresql)")
    return Path(name).resolve().parent


def _wait(programs: Path, folder: Path, port: int, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _STARTS_WITHIN_S
    asks = [str(programs / "pg_isready"), "-q", "-h", str(folder), "-p", str(port)]
    while subprocess.run(asks, check=False).returncode:
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("PostgreSQL does not start")
        time.sleep(0.1)


def _end(server: "subprocess.Popen[bytes]") -> None:
    server.send_signal(signal.SIGINT)  # which ends its connections, too
    try:
        server.wait(timeout=20)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait(timeout=20)
