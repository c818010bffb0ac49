"""Kills of a run's processes on emulated nodes, at any time: while it starts, steps and restarts.

Each run loses up to three of its processes, then comes to its end, if need be by the same command
again; its weights are compared with those of a run that nothing happened to.
"""

import signal
import time
from pathlib import Path
from random import Random

import psutil

from benchmarks.faults_campaign import Campaign
from benchmarks.faults_place import Place, make_place
from benchmarks.faults_progress import Progress
from benchmarks.faults_run import Run, quiet_environment, result_of

VICTIMS = ("worker", "driver", "controller", "coordinator", "decoder", "reader")
_TITLES = {
    "worker": "RayTrainWorker",
    "controller": "TrainController",
    "coordinator": "SplitCoordinator",
    "decoder": "Decoder",
    "reader": "Reader",
}
_KILLS_A_RUN, _EARLIEST_S, _LATEST_S = 3, 2.0, 30.0
_HANGS_S, _COMMANDS = 420.0, 4


def campaign_on_ray(
    folder: Path, key: str, seed: int, kills: int, minutes: float | None
) -> Progress:
    """Kills until there are so many, or the time is up, from where the folder's campaign stands.

    Raises: LaunchError where there can be no nodes; RunFailedError if the undisturbed run fails.
    """
    quiet_environment()
    folder.mkdir(parents=True, exist_ok=True)
    progress = Progress.read(folder / "progress.json", key)
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    if progress.kills >= kills:
        return progress
    with make_place(folder, ()) as place:
        truth = Campaign(place, seed, key).undisturbed(place.run("none").epochs)
        while progress.kills < kills and (deadline is None or time.monotonic() < deadline):
            run = place.run(f"killed-{progress.runs}")
            code = _torment(place, run, Random(f"{seed} on Ray {progress.runs}"), progress)
            if code is None:
                progress.hangs += 1
                progress.faults.append(f"{run.name} hangs after {run.steps()} steps")
            elif code != 0 or result_of(run.folder) != truth:
                progress.wrong += 1
                progress.faults.append(f"{run.name}: exit code {code}: {run.said()[-600:]}")
            if run.is_going() or code != 0:
                run.end()
                place.clear()
            progress.runs += 1
            progress.write()
    return progress


def _torment(place: Place, run: Run, random: Random, progress: Progress) -> int | None:
    """Kills some of the run's processes; the exit code of its last command, none if it hangs."""
    run.start()
    for _ in range(_KILLS_A_RUN):
        if run.wait(random.uniform(_EARLIEST_S, _LATEST_S)) is not None:
            break
        victim = random.choice(VICTIMS)
        found = place.actors(_TITLES[victim]) if victim in _TITLES else []
        if not found:  # none of these is up yet
            victim = "driver"
            run.signal(signal.SIGKILL)
            run.wait(_HANGS_S)
            run.start()
        else:
            _kill(random.choice(found))
        progress.kills += 1
        progress.by_phase[victim] = progress.by_phase.get(victim, 0) + 1
    for _ in range(_COMMANDS):
        code = run.wait(_HANGS_S)
        if not code:
            break
        run.start()
    return code


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return
