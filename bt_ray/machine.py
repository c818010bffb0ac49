"""What a machine may lack, and libraries take for granted: a user's name, a home, a short path."""

import getpass
import os
import tempfile
from pathlib import Path

LONGEST_SOCKET = 103
"""Bytes of a Unix socket's path that all systems allow."""


def name_user() -> None:
    """Gives this process, and those it starts, a user's name and home where there is none.

    A container that runs as a bare number (`docker run --user 1234`) has neither, and MLflow, torch
    and Ray ask for them.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):
        os.environ["USER"] = f"uid-{os.getuid()}"
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = tempfile.gettempdir()


def may_write(path: Path) -> bool:
    """Whether this process may write to a file or folder, or make it."""
    path = path.resolve()
    for place in (path, *path.parents):
        if os.access(place, os.F_OK):
            if place.is_dir():
                return os.access(place, os.W_OK | os.X_OK)
            return place == path and os.access(place, os.W_OK)
    return False
