"""Ray, joined or started: what `RAY_ADDRESS` may say, and what a machine may lack for it."""

import logging
import os
import secrets
import socket
from pathlib import Path
from urllib.parse import urlsplit

import grpc  # type: ignore[import-untyped]
import ray

from bt_ray.errors import LaunchError
from bt_ray.machine import LONGEST_SOCKET, may_write, name_user
from bt_ray.ray_internals import find_running_cluster

_log = logging.getLogger(__name__)

_SESSION = "/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"
"""What Ray adds to its folder, at the longest."""
_ANSWERS_S = 6.0
_ASKED = "/ray.rpc.NodeInfoGcsService/GetClusterId"
"""What every head is asked for first; one that asks for a token refuses it without."""
_TOKEN_HINT = (
    "give `export RAY_AUTH_MODE=token` first, and the cluster's token in ~/.ray/auth_token "
    "(`ray get-auth-token` prints it on the head) or RAY_AUTH_TOKEN"
)


def starts_here() -> bool:
    """Whether Ray would be started on this machine: no cluster is named, and this is no job."""
    address = ray_address()
    return address == "local" or (not address and "RAY_JOB_ID" not in os.environ)


def ray_address() -> str:
    """What `RAY_ADDRESS` says; nothing if it is empty or not there."""
    return os.environ.get("RAY_ADDRESS", "").strip()


def join_ray(num_cpus: int) -> None:
    """Joins the cluster that `RAY_ADDRESS` or the job names, or starts Ray on this machine.

    Args:
      num_cpus: logical CPUs of a cluster that is started here.
    Raises: LaunchError if there is no such cluster, or it cannot be joined from here.
    """
    if ray.is_initialized():
        return
    name_user()
    if starts_here():
        _start(num_cpus)
    else:
        _connect()


def _start(num_cpus: int) -> None:
    _bring_token()
    try:
        ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=False,  # it would end with the run
            log_to_driver=False,
            logging_level=logging.WARNING,
            _temp_dir=short_folder(),
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise LaunchError(
            f"Ray does not start on this machine: {_first_line(error)} Without Ray, give "
            "--scaling.workers 0."
        ) from error


def short_folder() -> str | None:
    """The folder for Ray's files, if its own choice is of no use; none: that choice.

    Ray keeps Unix sockets there, whose paths may have no more than 107 bytes.

    Raises: LaunchError if the one that `RAY_TMPDIR` names is of no use, or there is none at all.
    """
    wanted = os.environ.get("RAY_TMPDIR")
    usual = Path(wanted or os.environ.get("TMPDIR") or "/tmp", "ray")
    if os.name == "nt" or (is_short(usual) and may_write(usual)):
        return None
    if wanted:
        raise LaunchError(
            f"RAY_TMPDIR={wanted} must be a folder that may be written to, with a path of at most "
            f"{LONGEST_SOCKET - len(_SESSION) - len('/ray')} bytes: Ray keeps sockets there. Give "
            "another one, or unset it."
        )
    own = Path(f"/tmp/ray-{os.getuid()}")
    found = [place for place in (Path("/tmp/ray"), own) if may_write(place) and is_short(place)]
    if not found:
        raise LaunchError(
            f"Ray needs a folder with a short path for its sockets, and neither {usual} nor {own} "
            "will do; name one that may be written to by RAY_TMPDIR."
        )
    _log.warning(
        "%s will not do for Ray's files (its path is too long for sockets, or may not be written "
        "to): Ray keeps them in %s. RAY_TMPDIR names another folder.",
        usual,
        found[0],
    )
    return str(found[0])


def is_short(folder: Path) -> bool:
    """Whether the paths of Ray's sockets below it are short enough."""
    return len(os.fsencode(folder)) + len(_SESSION) <= LONGEST_SOCKET


def _bring_token() -> None:
    """A token for a cluster that is started here, where Ray could not keep one of its own."""
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    if any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        return
    file = Path.home() / ".ray" / "auth_token"
    if not os.access(file, os.R_OK) and not may_write(file):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def check_cluster() -> None:
    """Looks whether the head that `RAY_ADDRESS` names answers, and takes this machine's token.

    Raises: LaunchError, within seconds, if it does not.
    """
    if not starts_here() and ray_address():
        _check_address(ray_address())


def _connect() -> None:
    address = ray_address()
    check_cluster()
    try:
        ray.init(log_to_driver=False, logging_level=logging.WARNING)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise LaunchError(
            f"The cluster at RAY_ADDRESS={address} cannot be joined from here: "
            f"{_first_line(error)} Run the command on a node of the cluster, or submit it as a "
            f"job (docs/cluster.md). If it asks for a token, {_TOKEN_HINT}."
        ) from error


def _check_address(address: str) -> None:
    """Raises LaunchError, within seconds, for what Ray would wait a minute for or die of."""
    scheme, separator, rest = address.partition("://")
    if separator:
        raise LaunchError(_why_no_uri(address, scheme.lower(), rest))
    if address == "auto":
        found = find_running_cluster()
        if found is None:
            raise LaunchError(
                "RAY_ADDRESS=auto: no Ray cluster is running on this machine. Start one (`ray "
                "start --head`), or unset RAY_ADDRESS, and the run starts Ray itself."
            )
        address, name = found, f"RAY_ADDRESS=auto, which is {found}"
    else:
        name = f"RAY_ADDRESS={address}"
    place = split_address(address)
    if place is None:
        raise LaunchError(
            f"{name} must be HOST:PORT of a cluster's head (port 6379 unless it was told another), "
            "auto for one on this machine, or unset, and the run starts Ray itself."
        )
    way_out = (
        "Name the head of a cluster that is running (port 6379 unless it was told another), or "
        "unset RAY_ADDRESS, and the run starts Ray itself."
    )
    try:
        socket.create_connection(place, timeout=_ANSWERS_S).close()
    except (OSError, UnicodeError) as error:
        raise LaunchError(f"{name}: nobody answers there ({error}). {way_out}") from error
    if os.environ.get("RAY_USE_TLS", "0") in ("", "0"):  # else the head takes Ray's own calls alone
        _check_head(name, *place, way_out)


def split_address(address: str) -> tuple[str, int] | None:
    """Host and port of HOST:PORT or [HOST]:PORT; none of anything else."""
    try:
        parts = urlsplit(f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    is_more = parts.path or parts.query or parts.fragment or "@" in address
    return None if not host or not port or is_more else (host, port)


def _check_head(name: str, host: str, port: int, way_out: str) -> None:
    """Raises LaunchError unless a head answers there, and takes this machine's token."""
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    token = _token() if os.environ.get("RAY_AUTH_MODE", "").lower() == "token" else None
    metadata = None if token is None else [("authorization", f"Bearer {token}")]
    with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=_ANSWERS_S)
            channel.unary_unary(_ASKED)(b"", timeout=_ANSWERS_S, metadata=metadata)
        except grpc.FutureTimeoutError as error:
            raise LaunchError(
                f"{name}: what answers there is no head of a Ray cluster. {way_out}"
            ) from error
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                fault = "asks for a token" if token is None else "refuses this token"
                raise LaunchError(f"{name}: the cluster {fault}: {_TOKEN_HINT}.") from error


def _token() -> str:
    """The token that Ray would show, from where it looks for it."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token.strip()
    file = os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token"
    try:
        return Path(file).expanduser().read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _why_no_uri(address: str, scheme: str, rest: str) -> str:
    if scheme in ("http", "https"):
        host = split_address(rest.split("/")[0])
        return (
            f"RAY_ADDRESS={address} is where jobs are submitted, which no run can join. Submit the "
            f"command (`ray job submit --address {address} --working-dir . -- python -m …`), or on "
            f"a node of the cluster give RAY_ADDRESS={host[0] if host else 'HEAD'}:6379."
        )
    if scheme == "ray":
        return (
            f"RAY_ADDRESS={address} is for Ray's client, which cannot train from afar. Submit the "
            "command as a job (`ray job submit --address http://HEAD:8265 --working-dir . -- "
            "python -m …`), or on a node of the cluster give RAY_ADDRESS=HEAD:6379."
        )
    return (
        f"RAY_ADDRESS={address} must be HOST:PORT of a cluster's head, auto, or unset; "
        f"{scheme}:// is nothing that a run can join."
    )


def _first_line(error: BaseException) -> str:
    """What an error says first, as a sentence."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".:") + "."
