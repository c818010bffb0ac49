"""What `RAY_ADDRESS` may say, and what a machine may lack: a cluster, or a sentence in seconds."""

import http.server
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.ray_nodes import free_ports
from bt_ray import ray_start
from bt_ray.errors import LaunchError
from bt_ray.machine import may_write, name_user
from bt_ray.ray_start import is_short, join_ray, short_folder, split_address, starts_here

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is joined yet, and none runs on this machine."""
    monkeypatch.setattr(ray_start.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_start.ray, "init", lambda **_: None)
    monkeypatch.setattr(ray_start, "find_running_cluster", lambda: None)
    monkeypatch.delenv("RAY_JOB_ID", raising=False)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)


@pytest.fixture
def web_server() -> Iterator[str]:
    """HOST:PORT of a server that is no head."""
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize(
    ("address", "here"),
    [(None, True), ("", True), ("  ", True), ("local", True), ("auto", False), ("h:1", False)],
)
def test_an_empty_address_is_none(
    address: str | None, here: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    assert starts_here() == here
    monkeypatch.setenv("RAY_JOB_ID", "01000000")
    assert starts_here() == (address == "local")


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("http://head:8265", "Submit the command .`ray job submit --address http://head:8265"),
        ("https://head/ray", "where jobs are submitted"),
        ("ray://head:10001", "Ray's client, which cannot train from afar"),
        ("redis://head:1", "nothing that a run can join"),
        ("auto", "no Ray cluster is running on this machine"),
        ("head", "must be HOST:PORT"),
        ("head:port", "must be HOST:PORT"),
        ("head:6379/x", "must be HOST:PORT"),
        ("127.0.0.1:99999", "must be HOST:PORT"),
        ("no-such-host.invalid:6379", "nobody answers there"),
        ("a..b:6379", "nobody answers there"),
    ],
)
def test_an_address_that_leads_nowhere_is_answered_with_a_sentence(
    address: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(LaunchError, match=sentence):
        join_ray(1)


def test_a_dead_head_and_a_stranger_are_told_apart_within_seconds(
    web_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_start, "_ANSWERS_S", 1.0)
    began = time.monotonic()
    dead = f"127.0.0.1:{free_ports(1)[0]}"
    for address, sentence in ((dead, "nobody answers there"), (web_server, "no head of a Ray")):
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(
            LaunchError, match=f"RAY_ADDRESS={address}: .*{sentence}.*unset RAY_ADD"
        ):
            join_ray(1)
    monkeypatch.setenv("RAY_ADDRESS", "auto")  # the last head that ran here, and died
    monkeypatch.setattr(ray_start, "find_running_cluster", lambda: dead)
    with pytest.raises(LaunchError, match=f"RAY_ADDRESS=auto, which is {dead}: nobody"):
        join_ray(1)
    assert time.monotonic() - began < 10


def test_addresses_are_read_as_they_are_written() -> None:
    assert split_address("head:6379") == ("head", 6379)
    assert split_address("[::1]:6379") == ("::1", 6379)
    for wrong in ("", ":6379", "head:", "user@head:1", "a b", "[::1:5"):
        assert split_address(wrong) is None, wrong


def test_what_ray_says_when_it_does_not_start_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(**_: object) -> None:
        raise RuntimeError("Version mismatch: the cluster has 2.1:\n    more")

    monkeypatch.setattr(ray_start.ray, "init", refuse)
    monkeypatch.setenv("RAY_ADDRESS", "local")
    with pytest.raises(
        LaunchError, match=r"does not start on this machine: .* the cluster has 2\.1\. W"
    ):
        join_ray(1)
    monkeypatch.setattr(ray_start, "_check_address", lambda _: None)
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    with pytest.raises(LaunchError, match=r"RAY_ADDRESS=head:6379 cannot be joined.*RAY_AUTH_MODE"):
        join_ray(1)


def test_a_long_temporary_folder_is_no_place_for_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    long = tmp_path / ("long" * 20)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    folder = short_folder()
    assert folder is not None
    assert is_short(Path(folder))
    assert folder in caplog.text
    socket_path = f"{folder}{ray_start._SESSION}"
    assert len(socket_path) <= 107
    monkeypatch.setenv("RAY_TMPDIR", str(long))
    with pytest.raises(LaunchError, match=r"RAY_TMPDIR=.*at most \d+ bytes"):
        short_folder()
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    assert short_folder() is None


def test_a_temporary_folder_of_another_user_is_not_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TMPDIR", "/tmp")
    monkeypatch.setattr(ray_start, "may_write", lambda path: path != Path("/tmp/ray"))
    assert short_folder() == f"/tmp/ray-{os.getuid()}"
    monkeypatch.setattr(ray_start, "may_write", lambda _: False)
    with pytest.raises(LaunchError, match="RAY_TMPDIR"):
        short_folder()


def test_what_may_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert may_write(tmp_path)
    assert may_write(tmp_path / "file")
    assert may_write(tmp_path / "new" / "folder")
    assert not may_write(tmp_path / "file" / "below")


def test_a_user_without_a_name_or_home_gets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr("getpass.getuser", unknown)
    monkeypatch.setattr(Path, "home", lambda: exec("raise RuntimeError"))
    monkeypatch.setenv("USER", "")
    monkeypatch.setenv("HOME", "")
    name_user()
    assert os.environ["USER"] == f"uid-{os.getuid()}"
    assert Path(os.environ["HOME"]).is_dir()


def test_a_token_is_brought_where_none_can_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")  # and back, after the test
        monkeypatch.delenv(name)
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    ray_start._bring_token()
    assert "RAY_AUTH_TOKEN" not in os.environ
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    ray_start._bring_token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) >= 32


AS_A_NUMBER = """
import os, pwd, sys
def nobody(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = nobody
sys.argv = ["pretrain", "digits", "--storage", sys.argv[1], "--schedule.epochs", "1",
            "--schedule.warmup-epochs", "0", "--scaling.workers", sys.argv[2]]
from pipelines.pretrain import main
main()
"""


@pytest.mark.run
@pytest.mark.parametrize("workers", ["0", pytest.param("1", marks=pytest.mark.cluster)])
def test_a_container_that_runs_as_a_bare_number_trains(workers: str, tmp_path: Path) -> None:
    """Nobody knows its name or its home, and its folder for temporary files has a long path."""
    named = ("USER", "LOGNAME", "LNAME", "USERNAME", "HOME", "RAY_ADDRESS", "RAY_AUTH_MODE")
    bare = {name: value for name, value in os.environ.items() if name not in named}
    long = tmp_path / ("long" * 25)
    long.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", AS_A_NUMBER, str(tmp_path / "[my] runs"), workers],
        cwd=ROOT, env=bare | {"TMPDIR": str(long), "COLUMNS": "300"},
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "[my] runs/digits" in done.stderr
    assert '"precision"' in done.stdout
    if workers == "1":
        assert "Ray keeps them in /tmp/ray" in done.stderr
