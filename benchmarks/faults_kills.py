"""Kills in every phase of a run: `python -m benchmarks.faults_kills --json`.

A run without Ray is killed (SIGKILL) again and again, by its own hand, and the same go is made anew
until it is finished; then its weights are compared with those of a run that nothing happened to.
The moment is the n-th call that bt_ray's code makes in a phase: while the run starts, steps, saves
or ends. Phase and n are drawn from the seed. What was done is kept in the folder, so that a
campaign goes on where it was ended.
"""

import os
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import FrameType

import torch
import tyro

from benchmarks.faults_progress import Progress
from benchmarks.faults_results import code_digest
from benchmarks.faults_run import NOT_WANTED, Weights, result_of
from bt_ray.config import Settings, override
from bt_ray.data.preparation.write import write_shards
from bt_ray.data.sources import open_source
from bt_ray.errors import RunFailedError, SettingsError
from bt_ray.json_files import read_json, write_json
from bt_ray.presets import preset
from bt_ray.training.launch import pretrain
from pipelines.terminal import console, finish, guarded, quiet_libraries

PHASES = ("start", "step", "save", "end")
_HANGS_S, _LOOK_S = 180.0, 0.01
_SAVING = ("checkpoints/draft", "checkpoints/tensor_file", "checkpoints/manifest", "training/local")
_STEPPING, _ENDING = ("training/loop.py", "train"), ("training/launch.py", "_conclude")


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Share of the kills after which the run came to the same weights."""

    seed: int = 0
    """Draws phase and moment of each kill."""
    kills: int = 200
    """How many, all parts of the campaign together."""
    on_ray: int = 0
    """How many kills there are besides, of processes of a run on three nodes (root)."""
    minutes: float | None = None
    """Time of this part; none: until all is done."""
    folder: Path = Path("runs/kills")
    """For the runs, and for what was done so far."""
    json: bool = False
    """Print one line of JSON on stdout."""

    def __post_init__(self) -> None:
        if self.kills < 1:
            raise SettingsError("--kills must be at least 1.")


class Moment:
    """Ends the process at a call, counted within a phase; `counts` has all that were made."""

    def __init__(self, phase: str | None = None, number: int = 0) -> None:
        self.counts: Counter[str] = Counter()
        self._wanted, self._number = phase, number
        self._phase = "start"

    def watch(self) -> None:
        """From here on, in this thread and those that it starts."""
        threading.setprofile(self._see)
        sys.setprofile(self._see)

    def _see(self, frame: FrameType, event: str, _: object) -> None:
        if event not in ("call", "c_call") or "/bt_ray/" not in frame.f_code.co_filename:
            return
        place = frame.f_code.co_filename.rpartition("/bt_ray/")[2]
        if (place, frame.f_code.co_name) == _STEPPING:
            self._phase = "step"
        elif (place, frame.f_code.co_name) == _ENDING:
            self._phase = "end"
        is_save = self._phase == "step" and place.startswith(_SAVING)
        phase = "save" if is_save else self._phase
        self.counts[phase] += 1
        if phase == self._wanted and self.counts[phase] >= self._number:
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Parses the command line, kills, prints what came of it."""
    order = guarded(lambda: tyro.cli(Benchmark, prog="python -m benchmarks.faults_kills"))
    parts = {"without_ray": guarded(lambda: campaign(order))}
    if order.on_ray:
        from benchmarks.faults_on_ray import campaign_on_ray

        parts["on_ray"] = guarded(
            lambda: campaign_on_ray(
                order.folder / "on_ray", key_of(order), order.seed, order.on_ray, order.minutes
            )
        )
    for name, part in parts.items():
        console.print(
            f"{name}: {part.kills} kills, {part.runs} runs finished, {part.hangs} hangs, "
            f"{part.wrong} wrong"
        )
        for fault in part.faults:
            console.print(fault)
    if order.json:
        kills = sum(part.kills for part in parts.values())
        bad = sum(part.hangs + part.wrong for part in parts.values())
        record = {"ratio": 1 - min(1.0, bad / max(1, kills)), "seed": order.seed}
        record |= {"kills": kills, "kills_wanted": order.kills + order.on_ray}
        finish({"name": "faults_kills"} | record | {name: p.record() for name, p in parts.items()})


def key_of(order: Benchmark) -> str:
    """Names a campaign: one of another seed, or of other code, begins anew."""
    return f"seed {order.seed}, code {code_digest()}"


def campaign(order: Benchmark) -> Progress:
    """Kills until there are enough, or the time is up, from where the folder's campaign stands.

    Raises: RunFailedError if the undisturbed run fails.
    """
    quiet_libraries()
    for name in NOT_WANTED:
        os.environ.pop(name, None)
    torch.set_num_threads(1)  # threads would not survive a fork
    folder = order.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    progress = Progress.read(folder / "progress.json", key_of(order))
    if progress.draws == 0:
        for old in ("runs", "data"):
            shutil.rmtree(folder / old, ignore_errors=True)
        for part, source in (("train", "digits"), ("test", "digits:test")):
            write_shards(open_source(source), str(folder / "data" / part), rows_per_row_group=64)
        truth = run_settings(folder, "undisturbed")
        if _child(lambda: _count(truth, folder / "counts.json")) != 0:
            raise RunFailedError(f"The undisturbed run failed; see {folder / 'child.log'}.")
    counts = read_json(folder / "counts.json") or {}
    wanted = result_of(folder / "runs" / "undisturbed")
    deadline = None if order.minutes is None else time.monotonic() + 60 * order.minutes
    while progress.kills < order.kills or progress.draws == 0 or _is_open(folder, progress):
        if deadline is not None and time.monotonic() > deadline:
            break
        _go(order, folder, progress, counts, wanted)
        progress.write()
    return progress


def run_settings(folder: Path, name: str) -> Settings:
    """Some steps of digits without Ray, with a checkpoint after every other step."""
    return override(
        preset("digits"),
        {
            "name": name, "storage": str(folder / "runs"),
            "data.train": str(folder / "data" / "train"),
            "data.test": str(folder / "data" / "test"), "data.global_batch": 128,
            "views.image_px": 8, "model.projector_widths": [32, 32],
            "schedule.epochs": 2, "schedule.warmup_epochs": 1, "training.precision": "fp32",
            "training.log_every_steps": 1, "training.probe_every_epochs": 2,
            "training.checkpoint_every_epochs": 0.2, "probe.bank_images": 128,
            "probe.query_images": 64, "scaling.workers": 0, "scaling.accelerator": "cpu",
        },
    )  # fmt: skip


def _is_open(folder: Path, progress: Progress) -> bool:
    """Whether the present run was begun, and is not finished."""
    return (folder / "runs" / f"killed-{progress.runs}").exists()


def _go(
    order: Benchmark,
    folder: Path,
    progress: Progress,
    counts: dict[str, int],
    wanted: tuple[int, str, Weights],
) -> None:
    """One go at the present run, killed if there are kills left and its moment comes."""
    draw = Random(f"{order.seed} {progress.draws}")
    phase = draw.choice(PHASES)
    number = draw.randint(1, max(1, counts[phase]))
    moment = Moment(phase, number) if progress.kills < order.kills else Moment()
    name = f"killed-{progress.runs}"
    settings = run_settings(folder, name)
    progress.draws += 1
    code = _child(lambda: _train(settings, moment), folder / "child.log")
    if code == -signal.SIGKILL:
        progress.kills += 1
        progress.by_phase[phase] = progress.by_phase.get(phase, 0) + 1
        return
    at = f"{name}, go {progress.draws - 1}, to be killed in {phase} at call {number}"
    if code is None:
        progress.hangs += 1
        progress.faults.append(f"{at}: hangs")
    elif code != 0:
        progress.wrong += 1
        log = (folder / "child.log").read_text()[-600:]
        progress.faults.append(f"{at}: exit code {code}: {log}")
    elif result_of(folder / "runs" / name) != wanted:
        progress.wrong += 1
        progress.faults.append(f"{at}: other weights")
    progress.runs += 1


def _train(settings: Settings, moment: Moment) -> None:
    moment.watch()
    pretrain(settings, register=False)


def _count(settings: Settings, file: Path) -> None:
    moment = Moment()
    _train(settings, moment)
    write_json(file, dict(moment.counts))


def _child(job: Callable[[], None], log: Path | None = None) -> int | None:
    """How a copy of this process ends that does the job; none: it hung, and was ended."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if log is not None:
                stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(stream, 1)
                os.dup2(stream, 2)
            job()
            code = 0
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(code)
    deadline = time.monotonic() + _HANGS_S
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(_LOOK_S)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


if __name__ == "__main__":
    main()
