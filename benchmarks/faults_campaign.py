"""A campaign: each fault happens to a run of its own, and what came of it is kept in a file."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.faults_list import FAULTS, Fault, Scene
from benchmarks.faults_place import Place
from benchmarks.faults_run import INTERVAL, Run, Weights, measure
from bt_ray.errors import BtRayError, RunFailedError
from bt_ray.json_files import read_json, write_json

_FIRST_STEP_S, _ENDS_S = 180.0, 300.0
_EARLIEST, _LATEST = INTERVAL + 2, 3 * INTERVAL
"""Between these steps a fault happens."""
_FREE_S, _ASK_S = 60.0, 5.0
"""How long a killed command may leave its name taken; how often that is looked at."""


@dataclass(frozen=True)
class Result:
    """What came of a fault."""

    as_promised: bool
    outcome: str
    """`recovered`, `stopped with a sentence`, or `failed: …`."""
    sentence: str | None = None
    at_step: int = 0
    steps_lost: int = 0
    """Steps that were taken again."""
    steps_allowed: float = 0
    """The most that may be lost: the interval between checkpoints, and what is done while one is
    being kept."""
    next_step_s: float | None = None
    """From the fault until the next step that the run kept, outage included."""
    outage_s: float = 0.0
    rate_before: float = 0.0
    """Steps/s, by the median step."""
    rate_after: float = 0.0
    weights_equal: bool = False
    """Whether all tensors of the last checkpoint, and the digest of the data, are bit for bit
    those of the undisturbed run."""


class Campaign:
    """Faults of one seed on one place."""

    def __init__(self, place: Place, seed: int) -> None:
        self._place, self._seed = place, seed
        self._undisturbed: dict[int, tuple[int, str, Weights]] = {}

    def undisturbed(self, epochs: int) -> tuple[int, str, Weights]:
        """What a run comes to that nothing happens to; it is made once."""
        if epochs not in self._undisturbed:
            run = self._place.run(f"undisturbed-{epochs}", epochs=epochs)
            run.start()
            code = run.wait(_FIRST_STEP_S + _ENDS_S)
            run.end()
            if code != 0:
                raise RunFailedError(f"The undisturbed run failed: {run.said()[-1500:]}")
            self._undisturbed[epochs] = run.result()
        return self._undisturbed[epochs]

    def suffer(self, fault: Fault) -> Result:
        """Has a run of its own suffer the fault; a run that hangs or errs is a failed one."""
        self._place.settle()
        truth = self.undisturbed(fault.epochs)
        storage = getattr(self._place, "storage" if fault.storage == "runs" else fault.storage)
        run = self._place.run(fault.name, storage, fault.epochs)
        scene = Scene(self._place, run, Random(f"{self._seed} {fault.name}"))
        try:
            with scene.stack:
                if fault.surround is not None:
                    fault.surround(scene)
                at_step, at = self._inflict(fault, scene)
                hangs = run.wait(_ENDS_S) is None
                code, sentence = run.wait(0), run.sentence()
            if hangs:
                return Result(False, f"failed: it hangs after {run.steps()} steps", at_step=at_step)
            if code != 0:
                if sentence is None and not fault.again:
                    self._place.clear()
                    return Result(
                        False, f"failed: exit code {code} and no sentence: {run.said()[-800:]}",
                        at_step=at_step,
                    )  # fmt: skip
                _go_on(run)
            return _judge(fault, run, truth, code or 0, sentence, at_step, at)
        except BtRayError as error:
            return Result(False, f"failed: {error}")
        finally:
            if run.is_going():
                run.end()
                self._place.clear()

    def _inflict(self, fault: Fault, scene: Scene) -> tuple[int, float]:
        """Starts the run and inflicts the fault; after which step, and when."""
        run = scene.run
        due = scene.random.randint(_EARLIEST, _LATEST)
        run.start()
        run.wait_for(lambda: run.steps() > 0, _FIRST_STEP_S)
        run.wait_for(lambda: run.steps() >= due, _FIRST_STEP_S)
        time.sleep(scene.random.uniform(0.0, 0.3))
        at_step, at = run.steps(), time.time()
        fault.inflict(scene)
        return at_step, at


def _go_on(run: Run) -> None:
    """Gives the same command again, until its name is free. Raises: RunFailedError."""
    deadline = time.monotonic() + _FREE_S
    while True:
        run.start()
        code = run.wait(_FIRST_STEP_S + _ENDS_S)
        if code == 0:
            return
        if "is going already" not in run.said() or time.monotonic() > deadline:
            ended = "hangs" if code is None else f"ends with {code}"
            raise RunFailedError(f"The same command {ended}: {run.said()[-800:]}")
        time.sleep(_ASK_S)


def _judge(
    fault: Fault,
    run: Run,
    truth: tuple[int, str, Weights],
    code: int,
    sentence: str | None,
    at_step: int,
    at: float,
) -> Result:
    """What a run came to that has done all its steps, the last go perhaps after another command."""
    measured = measure(run.story(), at)
    equal = run.result() == truth
    stopped = code != 0 and sentence is not None
    outcome = "stopped with a sentence" if stopped else "recovered"
    allowed = INTERVAL + run.kept_s() * measured.rate_before + 1 if fault.loses else 0
    is_kept = outcome in fault.ends and equal and measured.most_lost <= allowed
    return Result(
        as_promised=is_kept,
        outcome=outcome,
        sentence=sentence,
        at_step=at_step,
        steps_lost=measured.steps_lost,
        steps_allowed=round(allowed, 1),
        next_step_s=round(measured.next_step_s, 1),
        outage_s=fault.outage_s,
        rate_before=round(measured.rate_before, 2),
        rate_after=round(measured.rate_after, 2),
        weights_equal=equal,
    )


class Results:
    """The results so far, in a file, by name; of one seed and one state of the code."""

    def __init__(self, file: Path, key: str) -> None:
        self._file = file
        kept = read_json(file) or {}
        self.by_name: dict[str, dict[str, Any]] = kept["faults"] if kept.get("key") == key else {}
        self._key = key

    def add(self, name: str, result: Result) -> None:
        """Keeps a result."""
        self.by_name[name] = asdict(result)
        write_json(self._file, {"key": self._key, "faults": self.by_name})


def whole(found: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Every fault by name, and `ratio`, the share that came out as promised.

    One that is missing counts as failed.
    """
    missing = asdict(Result(False, "failed: missing"))
    faults = {name: dict(found.get(name, missing)) for name in names}
    kept = sum(bool(result["as_promised"]) for result in faults.values())
    return {"ratio": kept / len(faults), "faults": faults}


summarize = partial(whole, names=tuple(FAULTS))
