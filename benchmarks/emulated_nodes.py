"""Several machines on one: namespaces with addresses, names, processes and folders of their own.

Each node has a network address (10.200.0.I), a hostname (`nodeI`) that all nodes resolve, a process
tree, and an empty /tmp and /dev/shm in which no other node sees anything. Processor, clock and the
rest of the disk are shared. The nodes see each other and nothing else, nor does anything else see
them: a server that they need runs on a node, too. It takes root, and no Docker.
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from bt_ray.errors import LaunchError

RAY = str(Path(sys.executable).with_name("ray"))
HEAD = 1
PORT, JOBS_PORT = 6379, 8265
_PRIVATE = ("/tmp", "/dev/shm")
_STARTS_WITHIN_S = 90

# What a node's first process does. The folders that all nodes share are held open while an empty
# file system covers their place, and put back below it.
_INIT = r"""
set -e
hostname "$NAME"
mount --bind "$HOSTS" /etc/hosts
index=20
for folder in $SHARED; do eval "exec $index<'$folder'"; index=$((index + 1)); done
for folder in $PRIVATE; do mkdir -p "$folder"; mount -t tmpfs -o mode=1777 none "$folder"; done
index=20
for folder in $SHARED; do
  mkdir -p "$folder"
  mount --no-canonicalize --bind "/proc/$$/fd/$index" "$folder"
  eval "exec $index<&-"
  index=$((index + 1))
done
echo ready
trap '' TERM INT
while :; do sleep 3600 & wait $!; done
"""


@dataclass(frozen=True)
class _Node:
    """`init`: the process (as the host counts) whose end ends all processes of the node."""

    init: int
    starter: subprocess.Popen[str]


class Nodes:
    """The nodes of a test, counted from 1; `make_nodes` makes one."""

    def __init__(
        self, folder: Path, shared: Sequence[Path], private: Sequence[Path], most: int
    ) -> None:
        self.folder = folder
        """Logs of the nodes' Ray, `ray-I.log`; the host sees them."""
        self._shared = [path.resolve() for path in shared]  # each after what it lies in
        self._private = [*_PRIVATE, *map(str, private)]
        self.tag = f"bt{secrets.token_hex(3)}"
        """What the bridge is called, and the namespaces begin with: no two `Nodes` share it."""
        self._alive: dict[int, _Node] = {}
        self._spaces: set[int] = set()
        self._hosts = folder / "hosts"
        lines = ["127.0.0.1 localhost", *(f"{address(i)} {name(i)}" for i in range(1, most + 1))]
        self._hosts.write_text("\n".join(lines) + "\n")
        _host("ip", "link", "add", self.tag, "type", "bridge")
        _host("ip", "link", "set", self.tag, "up")

    def space(self, number: int) -> None:
        """A node without Ray; where there is one, nothing happens."""
        if number in self._alive:
            return
        namespace, cable = self._namespace(number), self._cable(number)
        if number not in self._spaces:
            _host("ip", "netns", "add", namespace)
            self._spaces.add(number)
            _host("ip", "link", "add", cable, "type", "veth", "peer", "eth0", "netns", namespace)
            _host("ip", "link", "set", cable, "master", self.tag, "up")
            inside = ("ip", "netns", "exec", namespace, "ip")
            _host(*inside, "addr", "add", f"{address(number)}/24", "dev", "eth0")
            _host(*inside, "link", "set", "eth0", "up")
            _host(*inside, "link", "set", "lo", "up")
        # Each dies with the one before it, so that nothing outlives the test.
        starter = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", namespace, "unshare",
             "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc",
             "bash", "-c", _INIT],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "NAME": name(number), "HOSTS": str(self._hosts),
                 "PRIVATE": " ".join(self._private), "SHARED": " ".join(map(str, self._shared))},
        )  # fmt: skip
        assert starter.stdout is not None
        if starter.stdout.readline() != "ready\n":
            raise LaunchError(f"Node {number} could not be made: {starter.communicate()[1]}")
        [init] = psutil.Process(starter.pid).children()
        self._alive[number] = _Node(init.pid, starter)

    def join(
        self,
        number: int,
        *,
        cpus: float = 2,
        gpus: int = 0,
        store_mb: int = 100,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Starts Ray on a node, on node 1 as the head, and waits until it has begun.

        Args:
          cpus, gpus: logical ones, whatever the machine has.
          env: of Ray there, besides this process' environment.
        """
        self.space(number)
        log = self.folder / f"ray-{number}.log"
        role = (
            [
                "--head",
                f"--port={PORT}",
                "--dashboard-host=0.0.0.0",
                f"--dashboard-port={JOBS_PORT}",
            ]
            if number == HEAD
            else [f"--address={address(HEAD)}:{PORT}"]
        )
        with log.open("w") as file:
            process = self.begin(
                number,
                [RAY, "start", "--block", *role, f"--node-ip-address={address(number)}",
                 f"--num-cpus={cpus:g}", f"--num-gpus={gpus}",
                 f"--object-store-memory={store_mb << 20}", "--disable-usage-stats"],
                env, stdout=file, stderr=subprocess.STDOUT,
            )  # fmt: skip
        for _ in range(2 * _STARTS_WITHIN_S):
            if "Ray runtime started" in log.read_text():
                return
            if process.poll() is not None:
                break
            time.sleep(0.5)
        raise LaunchError(f"Ray did not start on node {number}: {log.read_text()[-2000:]}")

    def begin(
        self,
        number: int,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        **options: object,
    ) -> subprocess.Popen[str]:
        """Starts a command on a node, in the folder that the test runs in."""
        return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
            self.inside(number, command), text=True, env={**os.environ, **(env or {})}, **options
        )

    def run(
        self,
        number: int,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        timeout_s: float = 120,
    ) -> subprocess.CompletedProcess[str]:
        """What a command on a node printed and how it ended; `RAY_ADDRESS` names the head."""
        cluster = {"RAY_ADDRESS": f"{address(HEAD)}:{PORT}", **(env or {})}
        return subprocess.run(
            self.inside(number, command), env={**os.environ, **cluster}, text=True,
            capture_output=True, check=False, timeout=timeout_s,
        )  # fmt: skip

    def signal(self, process: subprocess.Popen[str], number: signal.Signals) -> None:
        """Sends a signal to what `begin` started; nsenter, which waits for it, passes none on."""
        [started] = psutil.Process(process.pid).children()
        started.send_signal(number)

    def inside(self, number: int, command: Sequence[str]) -> list[str]:
        """The command that, run on the host, runs `command` on the node."""
        entered = ("--mount", "--uts", "--ipc", "--net", "--pid", "--wd=" + str(Path.cwd()))
        return ["nsenter", f"--target={self._alive[number].init}", *entered, "--", *command]

    def processes(self, number: int, title: str = "") -> list[psutil.Process]:
        """What runs on a node under that title (as Ray gives its actors one), as the host counts.

        A node that is gone has none.
        """
        if number not in self._alive:
            return []
        theirs = Path(f"/proc/{self._alive[number].init}/ns/pid").readlink()
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                is_there = Path(f"/proc/{process.pid}/ns/pid").readlink() == theirs
                if is_there and title in " ".join(process.cmdline()[:1]):
                    found.append(process)
        return found

    def is_there(self, number: int) -> bool:
        """Whether a node was made, and not killed since."""
        return number in self._alive

    def tmp(self, number: int) -> Path:
        """The /tmp of a node, as the host sees it."""
        return Path(f"/proc/{self._alive[number].init}/root/tmp")

    def kill(self, number: int) -> None:
        """SIGKILL for all that runs on a node, as if its power went; it may `join` again."""
        node = self._alive.pop(number)
        psutil.Process(node.init).kill()
        node.starter.wait(timeout=30)

    def cut(self, number: int) -> None:
        """Pulls the node's network cable."""
        _host("ip", "link", "set", self._cable(number), "down")

    def mend(self, number: int) -> None:
        """Plugs the node's network cable in again."""
        _host("ip", "link", "set", self._cable(number), "up")

    def alive(self) -> dict[str, dict[str, float]]:
        """Resources of each living node of the Ray cluster, by its address."""
        script = (
            "import json, ray; ray.init(logging_level='ERROR');"
            "print(json.dumps({n['NodeManagerAddress']: n['Resources'] for n in ray.nodes()"
            " if n['Alive']}))"
        )
        done = self.run(HEAD, [sys.executable, "-c", script])
        if done.returncode:
            raise LaunchError(done.stderr)
        seen: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
        return seen

    def close(self) -> None:
        """Ends all nodes, and takes their network away."""
        for number in list(self._alive):
            self.kill(number)
        for number in self._spaces:
            _host("ip", "netns", "del", self._namespace(number))
        _host("ip", "link", "del", self.tag)

    def _namespace(self, number: int) -> str:
        return f"{self.tag}-{number}"

    def _cable(self, number: int) -> str:
        return f"{self.tag}v{number}"


def address(number: int) -> str:
    """A node's address."""
    return f"10.200.0.{number}"


def name(number: int) -> str:
    """A node's hostname."""
    return f"node{number}"


@contextmanager
def make_nodes(
    folder: Path, *, shared: Sequence[Path] = (), private: Sequence[Path] = (), most: int = 8
) -> Iterator[Nodes]:
    """Up to `most` nodes while the context lasts.

    Args:
      folder: for logs.
      shared: folders below a private one that all nodes see nevertheless, as by NFS; no spaces.
        What is mounted within one of them is seen if it is named, too, after it.
      private: folders, besides /tmp and /dev/shm, that each node finds empty.
    Raises: LaunchError where nodes cannot be made.
    """
    reason = why_not()
    if reason is not None:
        raise LaunchError(f"No nodes can be made here: {reason}.")
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        nodes = Nodes(folder, shared, private, most)
        stack.callback(nodes.close)
        yield nodes


def why_not() -> str | None:
    """Why nodes cannot be made here; none: they can."""
    if os.geteuid() != 0:
        return "nodes in namespaces need root"
    missing = [tool for tool in ("ip", "unshare", "nsenter", "setpriv") if not shutil.which(tool)]
    if missing:
        return f"nodes in namespaces need {', '.join(missing)} (Debian: iproute2, util-linux)"
    probe = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "true"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        return "this machine (a container without CAP_SYS_ADMIN?) makes no namespaces"
    return None


def _host(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LaunchError(f"{' '.join(command)}: {done.stderr}")
