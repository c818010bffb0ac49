"""Every fault by name: what is done to a run, and what was promised of it.

A fault is inflicted in mid-run, after a step that the seed draws. What it takes away comes back
where the promise says so. A node that is gone is started again at once, as whoever runs a cluster
has it done.
"""

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Literal

from benchmarks.faults_clock import clock_ahead
from benchmarks.faults_place import MLFLOW_NODE, WORKER_NODES, Place, far_server
from benchmarks.faults_run import EPOCHS, Run
from bt_ray.errors import LaunchError

Outcome = Literal["recovered", "stopped with a sentence"]

LONG = 6 * EPOCHS
"""Epochs of a run that outlasts what it need not wait for."""
_NOTICE_S = 30
_FILL = "filled.bin"


@dataclass
class Scene:
    """What a fault has at hand; the rest of it is done by `later`, when the run has gone on."""

    place: Place
    run: Run
    random: Random
    stack: ExitStack = field(default_factory=ExitStack)
    """Left when the run has ended, before the command is given again."""


@dataclass(frozen=True)
class Fault:
    """A fault. `inflict` returns when all that it takes away for a while is back."""

    name: str
    inflict: Callable[[Scene], None]
    ends: tuple[Outcome, ...] = ("recovered",)
    """How the run may end; after a stop the same command must go on to the same weights."""
    loses: bool = True
    """Whether steps since the last checkpoint may be lost; else none."""
    again: bool = False
    """Whether the command itself ends by the fault, and is given again."""
    outage_s: float = 0.0
    """How long something is away, in which no step need be taken."""
    epochs: int = EPOCHS
    storage: Literal["runs", "small", "far"] = "runs"
    surround: Callable[[Scene], None] | None = None
    """What is done before the run starts."""
    complaint: Callable[[Run], str | None] | None = None
    """What is wrong with a run that has ended, if anything is."""


def _kill_worker(scene: Scene) -> None:
    scene.place.workers()[-1][1].kill()


def _kill_first_worker(scene: Scene) -> None:
    scene.place.first_worker()[1].kill()


def _kill_node(scene: Scene) -> None:
    scene.place.replace(scene.random.choice(WORKER_NODES))


def _kill_actor(title: str) -> Callable[[Scene], None]:
    def kill(scene: Scene) -> None:
        victims = scene.place.actors(title)
        if not victims:
            raise LaunchError(f"No process of the run is called {title}.")
        for victim in victims:
            victim.kill()

    return kill


def _kill_driver(scene: Scene) -> None:
    scene.run.signal(signal.SIGKILL)


def _stop_worker(scene: Scene) -> None:
    _, worker = scene.random.choice(scene.place.workers())
    worker.suspend()


def _preempt_node(scene: Scene) -> None:
    number = scene.random.choice(WORKER_NODES)
    scene.place.give_notice(number, _NOTICE_S)
    time.sleep(_NOTICE_S)
    scene.place.replace(number)


def _terminate_driver(scene: Scene) -> None:
    scene.run.signal(signal.SIGTERM)
    if scene.run.wait(_NOTICE_S) is None:
        scene.run.signal(signal.SIGKILL)


def _cut(seconds: float, *, dies: bool) -> Callable[[Scene], None]:
    def cut(scene: Scene) -> None:
        number = scene.random.choice(WORKER_NODES)
        with _without_network(scene.place, number):
            time.sleep(seconds)
            if dies:
                scene.place.nodes.kill(number)
        if dies:
            scene.place.join(number)

    return cut


@contextmanager
def _without_network(place: Place, number: int) -> Iterator[None]:
    place.nodes.cut(number)
    try:
        yield
    finally:
        place.nodes.mend(number)


def _fill_disk(scene: Scene) -> None:
    """No byte is left; what the run writes next, a line or a checkpoint, finds no room."""
    file = Path(scene.run.storage) / _FILL
    scene.stack.callback(file.unlink, missing_ok=True)
    with suppress(OSError), file.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(2**16 if shutil.disk_usage(file.parent).free > 2**17 else 2**12))


def _take_storage_away(scene: Scene) -> None:
    server = far_server(scene.place.far)
    if server is None:
        raise LaunchError("The far storage has no server.")
    server.suspend()
    try:
        time.sleep(60)
    finally:
        server.resume()


def _serve_mlflow(scene: Scene) -> None:
    scene.run.mlflow = scene.stack.enter_context(scene.place.mlflow_server())


def _cut_mlflow(scene: Scene) -> None:
    with _without_network(scene.place, MLFLOW_NODE):
        time.sleep(60)


def _kill_mlflow(scene: Scene) -> None:
    scene.place.nodes.kill(MLFLOW_NODE)


def _is_silent(run: Run) -> str | None:
    """MLflow went for good: the run must end with a warning that says where its measures are."""
    return None if "Measures wait in" in run.said() else "no word of what MLflow did not get"


def _withholds(run: Run) -> str | None:
    """MLflow was back in mid-run: it has all measures at the end."""
    return "measures were not delivered" if "Measures wait in" in run.said() else None


def _set_clock(scene: Scene) -> None:
    """The node of rank 0 or the other: an hour ahead, of the head and of MLflow."""
    number = scene.random.choice(WORKER_NODES)
    scene.place.replace(number, **clock_ahead(hours=1, folder=scene.place.folder))


def _nothing(_: Scene) -> None:
    pass


FAULTS = {
    fault.name: fault
    for fault in (
        Fault("worker-killed", _kill_worker),
        Fault("rank0-killed", _kill_first_worker),
        Fault("node-killed", _kill_node),
        Fault("controller-killed", _kill_actor("TrainController")),
        Fault("driver-killed", _kill_driver, again=True),
        Fault("coordinator-killed", _kill_actor("SplitCoordinator"), epochs=LONG),
        Fault("worker-stopped", _stop_worker, outage_s=60),
        Fault("preempted", _preempt_node, loses=False, outage_s=_NOTICE_S, epochs=LONG),
        Fault(
            "driver-preempted",
            _terminate_driver,
            ends=("stopped with a sentence",),
            loses=False,
            again=True,
        ),
        Fault("network-cut-20s", _cut(20, dies=False), loses=False, outage_s=20),
        Fault("network-cut-120s", _cut(120, dies=True), outage_s=120),
        Fault(
            "disk-full",
            _fill_disk,
            ends=("recovered", "stopped with a sentence"),
            storage="small",
        ),
        Fault(
            "storage-away-60s",
            _take_storage_away,
            ends=("recovered", "stopped with a sentence"),
            storage="far",
            outage_s=60,
        ),
        Fault(
            "mlflow-away-60s",
            _cut_mlflow,
            loses=False,
            epochs=LONG,
            outage_s=60,
            surround=_serve_mlflow,
            complaint=_withholds,
        ),
        Fault(
            "mlflow-away", _kill_mlflow, loses=False, surround=_serve_mlflow, complaint=_is_silent
        ),
        Fault("clock-off", _nothing, loses=False, surround=_set_clock),
    )
}
"""The faults that were promised something, by name."""
