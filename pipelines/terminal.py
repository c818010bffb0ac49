"""What every pipeline shows: words for people on stderr, one line of JSON on stdout."""

import json
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any, TypeVar

from rich.console import Console
from rich.markup import escape

from bt_ray.errors import (
    BtRayError,
    NonFiniteLossError,
    PlanError,
    RunFailedError,
    RunStoppedError,
)
from bt_ray.redaction import redact

T = TypeVar("T")

console = Console(stderr=True)

_QUIET = {
    "MLFLOW_CONFIGURE_LOGGING": "false",  # its errors are shown as ours are
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_DEDUP_LOGS_SKIP_REGEX": "worker processes have been started on node",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
}
_CHATTY = ("mlflow", "alembic", "ray._private.authentication")


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


def finish(record: dict[str, Any]) -> None:
    """Prints the last line: `record` as JSON, for programs; no URI has a password."""
    print(redact(json.dumps(record)), flush=True)


def guarded(job: Callable[[], T]) -> T:
    """What `job` returns; a BtRayError ends the program with its sentence.

    The exit code is 2 for what cannot start, 128 + the signal's number for a run that was stopped,
    and 1 for what went wrong on the way. What libraries print meanwhile goes to stderr.
    """
    quiet_libraries()
    try:
        with redirect_stdout(sys.stderr):
            return job()
    except RunStoppedError as stopped:
        console.print(f"[bold]Stopped[/]: {escape(redact(str(stopped)))}", soft_wrap=True)
        sys.exit(128 + stopped.signal_number)
    except KeyboardInterrupt:
        console.print("Interrupted.")
        sys.exit(128 + signal.SIGINT)
    except (BtRayError, OSError) as error:
        show_error(error)
        sys.exit(exit_code(error))


def show_error(error: Exception) -> None:
    """Prints the error's kind and sentence."""
    console.print(
        f"[bold red]{type(error).__name__}[/]: {escape(redact(str(error)))}", soft_wrap=True
    )


def exit_code(error: Exception) -> int:
    """1 for what went wrong on the way, 2 for what was refused before anything started."""
    on_the_way = (NonFiniteLossError, PlanError, RunFailedError)
    return 2 if isinstance(error, BtRayError) and not isinstance(error, on_the_way) else 1
