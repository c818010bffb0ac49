"""A campaign: faults happen to runs, and each run is held against one that nothing happened to."""

import time
from dataclasses import dataclass
from random import Random

from benchmarks.faults_list import Fault, Scene
from benchmarks.faults_place import Place
from benchmarks.faults_results import Result
from benchmarks.faults_run import INTERVAL, Run, Weights, measure, result_of
from bt_ray.errors import BtRayError, RunFailedError
from bt_ray.json_files import read_json, write_json

_FIRST_STEP_S, _ENDS_S, _STEP_S = 180.0, 240.0, 1.0
_EARLIEST, _LATEST, _SPREAD = INTERVAL + 2, 3 * INTERVAL, 2
"""Of a run's steps, those after which its first fault happens; of later ones, the span."""
_FREE_S, _ASK_S = 60.0, 5.0
"""How long a killed command may leave its name taken; how often that is looked at."""

Truth = tuple[int, str, Weights]


@dataclass
class _Blow:
    """A fault that was inflicted: after which step, when, and how the command ended by it."""

    fault: Fault
    at_step: int
    at: float
    code: int | None = 0
    sentence: str | None = None


class Campaign:
    """Faults of one seed on one place.

    Args:
      code: names the state of the code, in which an undisturbed run is made once.
    """

    def __init__(self, place: Place, seed: int, code: str) -> None:
        self._place, self._seed, self._code = place, seed, code
        self._undisturbed: dict[int, Truth] = {}

    def undisturbed(self, epochs: int) -> Truth:
        """What a run comes to that nothing happens to; it is made once."""
        if epochs not in self._undisturbed:
            name = f"undisturbed-{epochs}"
            made = self._place.folder / f"{name}.json"
            if read_json(made) != {"code": self._code}:
                made.unlink(missing_ok=True)
                run = self._place.run(name, epochs=epochs)
                run.start()
                code = run.wait(_FIRST_STEP_S + _ends_s(run))
                run.end()
                if code != 0:
                    raise RunFailedError(f"The undisturbed run failed: {run.said()[-1500:]}")
                write_json(made, {"code": self._code})
            self._undisturbed[epochs] = result_of(self._place.storage / name)
        return self._undisturbed[epochs]

    def suffer(self, *faults: Fault) -> list[Result]:
        """Has one run suffer the faults, one after the other; what came of each.

        Only the last one may stop the run, unless it is one that ends the command. A run that hangs
        or errs is a failed one, of all faults from then on.
        """
        self._place.settle()
        truth = self.undisturbed(faults[0].epochs)
        storage = next((f.storage for f in faults if f.storage != "runs"), "storage")
        name = faults[0].name if len(faults) == 1 else "several"
        run = self._place.run(name, getattr(self._place, storage), faults[0].epochs)
        scene = Scene(self._place, run, Random(f"{self._seed} {name}"))
        blows: list[_Blow] = []
        try:
            with scene.stack:
                for fault in faults:
                    if fault.surround is not None:
                        fault.surround(scene)
                run.start()
                for index, fault in enumerate(faults):
                    span = (run.total_steps - _EARLIEST) // len(faults)
                    blows.append(_inflict(fault, scene, index, span))
                    if fault is faults[-1] or fault.again:
                        _see_end(run, blows[-1])
                    if fault is not faults[-1] and fault.again:
                        _go_on(run, wait=False)
            if blows[-1].code != 0:
                _go_on(run)
            is_equal = result_of(run.folder) == truth
            ends = [blow.at for blow in blows[1:]] + [float("inf")]
            return [_judge(b, run, is_equal, end) for b, end in zip(blows, ends, strict=True)]
        except BtRayError as error:
            self._place.clear()
            return [Result(False, f"failed: {error}")] * len(faults)
        finally:
            run.end()


def _inflict(fault: Fault, scene: Scene, index: int, span: int) -> _Blow:
    """Inflicts a run's fault number `index`, in the part of its steps that is this fault's."""
    run = scene.run
    first = index * span + _EARLIEST
    due = scene.random.randint(first, max(first + _SPREAD, min(span // 2, _LATEST)))
    run.wait_for(lambda: run.steps() > 0, _FIRST_STEP_S)
    run.wait_for(lambda: run.steps() >= due, _ends_s(run))
    time.sleep(scene.random.uniform(0.0, 0.3))
    blow = _Blow(fault, run.steps(), time.time())
    fault.inflict(scene)
    if fault.outage_s and not run.is_going() and run.steps() == run.total_steps:
        raise RunFailedError(f"the run was done before {fault.name} was over: it must be longer")
    return blow


def _see_end(run: Run, blow: _Blow) -> None:
    """Waits for the command's end. Raises: RunFailedError if it hangs, or ends with no sentence."""
    blow.code, blow.sentence = run.wait(_ends_s(run)), run.sentence()
    if blow.code is None:
        raise RunFailedError(f"it hangs after {run.steps()} steps: {run.said()[-300:]}")
    if blow.code != 0 and blow.sentence is None and not blow.fault.again:
        raise RunFailedError(f"exit code {blow.code} and no sentence: {run.said()[-800:]}")


def _ends_s(run: Run) -> float:
    """How long a run may take from a fault to its end before it is held to hang."""
    return _ENDS_S + _STEP_S * run.total_steps


def _go_on(run: Run, *, wait: bool = True) -> None:
    """Gives the same command again, until its name is free. Raises: RunFailedError.

    Args:
      wait: for its end, not for a step alone.
    """
    deadline = time.monotonic() + _FREE_S
    while True:
        told = len(run.story())
        run.start()
        while run.is_going() and (wait or len(run.story()) == told):
            if time.monotonic() > deadline + _FIRST_STEP_S + _ends_s(run):
                raise RunFailedError(f"The same command hangs: {run.said()[-800:]}")
            time.sleep(0.1)
        code = run.wait(0)
        if code == 0 or (code is None and not wait):
            return
        if "is going already" not in run.said() or time.monotonic() > deadline:
            raise RunFailedError(f"The same command ends with {code}: {run.said()[-800:]}")
        time.sleep(_ASK_S)


def _judge(blow: _Blow, run: Run, is_equal: bool, end: float) -> Result:
    """What came of a blow to a run that has done all its steps, perhaps by another command."""
    fault = blow.fault
    measured = measure(run.story(), blow.at, end)
    is_stopped = blow.code != 0 and blow.sentence is not None
    outcome = "stopped with a sentence" if is_stopped else "recovered"
    if fault.complaint is not None and (complaint := fault.complaint(run)):
        outcome = f"failed: {complaint}"
    allowed = INTERVAL + run.kept_s() * measured.rate_before + 1 if fault.loses else 0
    return Result(
        as_promised=outcome in fault.ends and is_equal and measured.most_lost <= allowed,
        outcome=outcome,
        sentence=blow.sentence,
        at_step=blow.at_step,
        steps_lost=measured.steps_lost,
        steps_allowed=round(allowed, 1),
        next_step_s=round(measured.next_step_s, 1),
        outage_s=fault.outage_s,
        rate_before=round(measured.rate_before, 2),
        rate_after=round(measured.rate_after, 2),
        rate_ratio=round(measured.rate_after / (measured.rate_before or 1), 2),
        weights_equal=is_equal,
    )
