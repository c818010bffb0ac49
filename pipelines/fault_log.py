"""The trace of an error that nobody foresaw, kept in a file for whoever mends it."""

import os
import platform
import shlex
import sys
import tempfile
import traceback
from datetime import datetime
from importlib.metadata import version

from bt_ray.redaction import redact


def keep_trace(error: BaseException) -> str:
    """The file that the error's trace was written to, or why there is none."""
    text = "\n".join(
        (
            f"{datetime.now():%Y-%m-%d %H:%M:%S}  {shlex.join(sys.argv)}",
            f"bt-ray on Python {platform.python_version()}, {platform.platform()}, "
            f"ray {version('ray')}, torch {version('torch')}",
            "",
            "".join(traceback.format_exception(error)),
        )
    )
    try:
        descriptor, place = tempfile.mkstemp(prefix="bt_ray_", suffix=".log")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(redact(text))
    except OSError as refused:
        return f"no file: {refused}"
    return place
