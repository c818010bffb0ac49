"""What every pipeline shows: words for people on stderr, one line of JSON on stdout."""

import json
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any, TypeVar

from rich.console import Console
from rich.markup import escape

from bt_ray.errors import BtRayError, SettingsError

T = TypeVar("T")

console = Console(stderr=True)


def finish(record: dict[str, Any]) -> None:
    """Prints the last line: `record` as JSON, for programs."""
    print(json.dumps(record), flush=True)


def guarded(job: Callable[[], T]) -> T:
    """What `job` returns; a BtRayError ends the program with its sentence.

    The exit code is 2 for settings and 1 for what went wrong later. What libraries print
    meanwhile is for people too.
    """
    try:
        with redirect_stdout(sys.stderr):
            return job()
    except BtRayError as error:
        show_error(error)
        sys.exit(exit_code(error))


def show_error(error: BtRayError) -> None:
    """Prints the error's kind and sentence."""
    console.print(f"[bold red]{type(error).__name__}[/]: {escape(str(error))}", soft_wrap=True)


def exit_code(error: BtRayError) -> int:
    """2 for settings, 1 for all else."""
    return 2 if isinstance(error, SettingsError) else 1
