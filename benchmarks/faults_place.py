"""Where faults happen: three emulated nodes, a storage that they share, MLflow.

Node 1 is the head, where the command runs; nodes 2 and 3 have room for a worker each, and nobody
else has, so that a run that loses one waits until it is back.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

from benchmarks.emulated_nodes import HEAD, PORT, Nodes, address, make_nodes
from benchmarks.faults_run import Run
from bt_ray.data.preparation.write import write_shards
from bt_ray.data.sources import open_source
from bt_ray.errors import LaunchError

WORKER_NODES = (2, 3)
MLFLOW_NODE, _MLFLOW_PORT = 9, 5000
_CPUS = {HEAD: 1.0} | dict.fromkeys(WORKER_NODES, 2.0)
_SMALL_MB = 32
_TRIES = 120


class Place:
    """The cluster of a campaign; it is made anew when something is wrong with it.

    Storages in `folder`: `runs`; `small`, of a few megabytes; `far`, a file system whose server can
    be stopped. `data` has the shards.
    """

    def __init__(self, folder: Path, mounts: Sequence[str] = ()) -> None:
        self.folder = folder
        self.data, self.storage = folder / "data", folder / "runs"
        self.small, self.far = folder / "small", folder / "far"
        self._mounted = [folder / name for name in mounts]
        self._stack = ExitStack()
        self._nodes: Nodes | None = None
        self._odd: set[int] = set()

    @property
    def nodes(self) -> Nodes:
        """The nodes; they are started if there are none."""
        if self._nodes is None:
            for folder in (self.storage, self.folder / "logs"):
                folder.mkdir(exist_ok=True)
            shared = [self.folder, *self._mounted]
            made = make_nodes(self.folder / "logs", shared=shared, most=MLFLOW_NODE)
            self._nodes = self._stack.enter_context(made)
            for number in _CPUS:
                self.join(number)
        return self._nodes

    def join(self, number: int, **env: str) -> None:
        """Starts a node (again), with this in the environment of all that runs there."""
        assert self._nodes is not None
        self._nodes.join(number, cpus=_CPUS[number], store_mb=100, env=env)
        self._odd.discard(number)
        if env:
            self._odd.add(number)

    def replace(self, number: int, **env: str) -> None:
        """Ends a node, if it is still there, and starts it again."""
        if self.nodes.is_there(number):
            self.nodes.kill(number)
        self.join(number, **env)

    def clear(self) -> None:
        """Takes all nodes away; the next who asks for them gets new ones."""
        self._stack.close()
        self._nodes, self._odd = None, set()

    def settle(self) -> None:
        """Makes the cluster as it was: odd nodes are started again."""
        for number in list(self._odd):
            self.replace(number)

    def run(self, name: str, storage: Path | None = None, epochs: int | None = None) -> Run:
        """A run that was not yet started, in a new folder."""
        storage = storage or self.storage
        shutil.rmtree(storage / name, ignore_errors=True)
        run = Run(self.nodes, name, str(storage), self.data, f"sqlite:///{self.folder}/mlflow.db")
        if epochs is not None:
            run.epochs = epochs
        return run

    def first_worker(self) -> tuple[int, psutil.Process]:
        """Rank 0: its node and process, as the log of Ray Train's controller names them."""
        logs = self.nodes.tmp(HEAD) / "ray" / "session_latest"
        logs = self.nodes.tmp(HEAD) / "ray" / logs.readlink().name / "logs" / "train"
        newest = max(logs.glob("ray-train-app-controller*.log"), key=lambda f: f.stat().st_mtime)
        line = [line for line in newest.read_text().splitlines() if "world_rank=0," in line][-1]
        number = next(n for n in WORKER_NODES if f"ip={address(n)}" in line)
        [worker] = self.nodes.processes(number, "RayTrainWorker")
        return number, worker

    def workers(self) -> list[tuple[int, psutil.Process]]:
        """Every training worker and its node, rank 0 first."""
        first = self.first_worker()
        return [first] + [
            (number, worker)
            for number in WORKER_NODES
            for worker in self.nodes.processes(number, "RayTrainWorker")
            if worker != first[1]
        ]

    def actors(self, title: str) -> list[psutil.Process]:
        """The processes of Ray's actors of that name, on all nodes."""
        return [p for n in (HEAD, *WORKER_NODES) for p in self.nodes.processes(n, title)]

    def node_id(self, number: int) -> str:
        """Ray's name of a node."""
        script = (
            "import ray; ray.init(logging_level='ERROR');"
            "print([n['NodeID'] for n in ray.nodes() if n['Alive']"
            f" and n['NodeManagerAddress'] == {address(number)!r}][-1])"
        )
        done = self.nodes.run(HEAD, [sys.executable, "-c", script])
        if done.returncode:
            raise LaunchError(f"Ray does not name its nodes: {done.stderr[-500:]}")
        return done.stdout.split()[-1]

    def give_notice(self, number: int, seconds: int) -> None:
        """Tells Ray that a node is taken away after so many seconds, as a spot market does."""
        done = self.nodes.run(
            HEAD,
            [str(Path(sys.executable).with_name("ray")), "drain-node",
             f"--address={address(HEAD)}:{PORT}", f"--node-id={self.node_id(number)}",
             "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=taken away",
             f"--deadline-remaining-seconds={seconds}"],
        )  # fmt: skip
        if done.returncode:
            raise LaunchError(f"Ray took no notice: {(done.stdout + done.stderr)[-500:]}")

    @contextmanager
    def mlflow_server(self) -> Iterator[str]:
        """An MLflow server on a node of its own, by its URI."""
        self.nodes.space(MLFLOW_NODE)
        log = (self.folder / "logs" / "mlflow.log").open("w")
        with log:
            process = self.nodes.begin(
                MLFLOW_NODE,
                [sys.executable, "-m", "mlflow", "server", "--host=0.0.0.0", "--workers=1",
                 f"--port={_MLFLOW_PORT}", f"--backend-store-uri=sqlite:///{self.folder}/server.db",
                 "--serve-artifacts", f"--artifacts-destination={self.folder}/artifacts",
                 "--allowed-hosts=*"],
                stdout=log, stderr=log,
            )  # fmt: skip
        uri = f"http://{address(MLFLOW_NODE)}:{_MLFLOW_PORT}"
        asks = [sys.executable, "-c", f"import urllib.request as r; r.urlopen('{uri}/health')"]
        try:
            for _ in range(_TRIES):
                if process.poll() is not None:
                    raise LaunchError("MLflow's server does not start; see mlflow.log.")
                if self.nodes.run(HEAD, asks).returncode == 0:
                    break
                time.sleep(0.5)
            yield uri
        finally:
            if self.nodes.is_there(MLFLOW_NODE):
                self.nodes.kill(MLFLOW_NODE)
            process.wait()


@contextmanager
def make_place(folder: Path, mounts: Sequence[str] = ("small", "far")) -> Iterator[Place]:
    """The place while the context lasts; folders are kept, nodes and mounts are not.

    Args:
      mounts: which of `small` and `far` are wanted.
    Raises: LaunchError where there can be no nodes, or no such storages.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    place = Place(folder, mounts)
    for part, source in (("train", "digits"), ("test", "digits:test")):
        if not (place.data / part).exists():
            write_shards(open_source(source), str(place.data / part), rows_per_row_group=64)
    with ExitStack() as stack:
        if "small" in mounts:
            stack.enter_context(_mounted(place.small, ["mount", "-t", "tmpfs", "-o",
                                                       f"size={_SMALL_MB}m", "none"]))  # fmt: skip
        if "far" in mounts:
            behind = folder / "far-behind"
            behind.mkdir(exist_ok=True)
            stack.enter_context(_mounted(place.far, ["bindfs", str(behind)]))
        stack.callback(place.clear)
        yield place


@contextmanager
def _mounted(folder: Path, command: list[str]) -> Iterator[None]:
    """A file system in that folder; what an earlier campaign left there goes first."""
    _unmount(folder)
    folder.mkdir(exist_ok=True)
    try:
        subprocess.run([*command, str(folder)], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise LaunchError(
            f"{command[0]} makes no file system here ({getattr(error, 'stderr', error)}); it needs "
            "root, and for a storage that goes away Debian's bindfs and /dev/fuse."
        ) from error
    try:
        yield
    finally:
        _unmount(folder)


def _unmount(folder: Path) -> None:
    server = far_server(folder)
    if server is not None:
        with suppress(psutil.Error):
            server.resume()
    subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False)


def far_server(folder: Path) -> psutil.Process | None:
    """The process that serves the file system of that folder; none if it is another kind."""
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if command[:1] == ["bindfs"] and command[-1] == str(folder):
            return process
    return None
