"""What every pipeline shows: words for people on stderr, one line of JSON on stdout."""

import json
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import wraps
from typing import Any, TypeVar

from rich.console import Console
from rich.text import Text

from bt_ray.cpu.count import affine_cpus, available_cpus
from bt_ray.errors import (
    BtRayError,
    NonFiniteLossError,
    PlanError,
    RunFailedError,
    RunStoppedError,
)
from bt_ray.machine import name_user
from bt_ray.redaction import redact
from pipelines.fault_log import keep_trace

T = TypeVar("T")


class _Console(Console):
    """Takes words as they are, so that a path may hold brackets; a closed pipe ends no run."""

    def on_broken_pipe(self) -> None:
        """Goes on without words: who read them has gone."""
        self.quiet = True
        _close_to_readers(sys.stderr.fileno())


console = _Console(stderr=True, markup=False, emoji=False)
"""Strings are shown as they are; a `rich.text.Text` has styles."""

_QUIET = {
    "MLFLOW_CONFIGURE_LOGGING": "false",  # its errors are shown as ours are
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_DEDUP_LOGS_SKIP_REGEX": "worker processes have been started on node",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
}
_CHATTY = ("mlflow", "alembic", "ray._private.authentication")
_KEPT = "What is written so far is kept, and the same command goes on from there."


def quiet_libraries() -> None:
    """Keeps what libraries report of their own work off the terminal; their errors are shown."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", ".*An input example was not provided")
    if "mlflow" in sys.modules:  # which only bt_ray.tracking imports
        # "Successfully registered model …" goes past all loggers, and MLflow's own switch for it,
        # disable_logging, is thrown back by an import in mid-run.
        stream = sys.modules["mlflow.utils.logging_utils"].MLFLOW_LOGGING_STREAM
        stream.write = lambda _: None


def settle_in() -> None:
    """Before anything computes: as many threads as a cgroup has CPUs for, and a user's name."""
    if available_cpus() < affine_cpus():  # which libraries look at; they know of no cgroup
        os.environ.setdefault("OMP_NUM_THREADS", str(available_cpus()))
    name_user()


def say(kind: str, words: str, style: str) -> None:
    """Prints `kind: words`, the kind in this style."""
    console.print(Text.assemble((kind, style), ": ", words), soft_wrap=True)


def warn(sentence: str) -> None:
    """Prints a warning."""
    say("Warning", sentence, "bold yellow")


def finish(record: dict[str, Any]) -> None:
    """Prints the last line: `record` as JSON, for programs; no URI has a password."""
    _flush(redact(json.dumps(record)) + "\n")


def guarded(job: Callable[[], T]) -> T:
    """What `job` returns; what libraries print meanwhile goes to stderr.

    An error ends the program as `answering` has it.
    """
    quiet_libraries()
    with answering(), redirect_stdout(sys.stderr):
        return job()


def command(main: Callable[[], None]) -> Callable[[], None]:
    """Makes a `main` end as `answering` has it, whatever happens in it."""

    @wraps(main)
    def answered() -> None:
        with answering():
            settle_in()
            main()

    return answered


class _Terminated(KeyboardInterrupt):
    """SIGTERM, where it ends things as Ctrl-C does."""


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Has SIGTERM end what is done as Ctrl-C does, with time to clear up, instead of at once."""

    def interrupt(*_: object) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def answering() -> Iterator[None]:
    """Ends the program with a sentence and an exit code, never with a trace.

    2 for what cannot start, 128 + the signal's number for a run that was stopped, and 1 for what
    went wrong on the way. Of what nobody foresaw, the trace is kept in a file, which is named.
    """
    threading.excepthook = _tell_of_thread
    try:
        yield
    except RunStoppedError as stopped:
        say("Stopped", redact(str(stopped)), "bold")
        sys.exit(128 + stopped.signal_number)
    except KeyboardInterrupt as interrupt:
        console.print("Interrupted.")
        sys.exit(128 + (signal.SIGTERM if isinstance(interrupt, _Terminated) else signal.SIGINT))
    except (BtRayError, OSError) as error:
        show_error(error)
        sys.exit(exit_code(error))
    except Exception as error:
        show_fault(error)
        sys.exit(1)
    finally:
        _flush()


def show_error(error: Exception) -> None:
    """Prints the error's kind and sentence."""
    say(type(error).__name__, redact(str(error)), "bold red")


def show_fault(error: BaseException) -> None:
    """Prints, in one line, an error that nobody foresaw, and where its trace is kept."""
    first = (str(error).strip().splitlines() or ["no more is known"])[0]
    words = f"{redact(first)} (not foreseen; the trace is in {keep_trace(error)}). {_KEPT}"
    say(type(error).__name__, words, "bold red")


def _tell_of_thread(hook: threading.ExceptHookArgs) -> None:
    if hook.exc_value is not None and not isinstance(hook.exc_value, SystemExit):
        show_fault(hook.exc_value)


def exit_code(error: Exception) -> int:
    """1 for what went wrong on the way, 2 for what was refused before anything started."""
    on_the_way = (NonFiniteLossError, PlanError, RunFailedError)
    return 2 if isinstance(error, BtRayError) and not isinstance(error, on_the_way) else 1


def _flush(more: str = "") -> None:
    """Hands on what was printed, and more; if nobody reads it, the work is done all the same."""
    try:
        sys.stdout.write(more)
        sys.stdout.flush()
    except BrokenPipeError:
        _close_to_readers(sys.stdout.fileno())


def _close_to_readers(stream: int) -> None:
    """Has all that is still written to this file descriptor go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream)
    os.close(nowhere)
