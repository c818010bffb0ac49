"""A clock that is off, for all programs of a node: Debian's libfaketime, and what it lacks.

Its release 0.9.10 either shifts the monotonic clock too, and a `threading.Condition` then waits an
hour longer, or refuses `clock_nanosleep` on it, which is Python's `time.sleep`. So that call goes
to the kernel as it is.
"""

import shutil
import subprocess
from pathlib import Path

from bt_ray.errors import LaunchError

_LIBRARY = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
_SLEEP = """
#define _GNU_SOURCE
#include <errno.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_nanosleep(clockid_t clock, int flags, const struct timespec *wanted,
                    struct timespec *left) {
  return syscall(SYS_clock_nanosleep, clock, flags, wanted, left) == 0 ? 0 : errno;
}
"""


def clock_ahead(hours: int, folder: Path) -> dict[str, str]:
    """Environment in which programs see the time of day so many hours ahead, and else as it is.

    Args:
      folder: for what is compiled, which the node must see.
    Raises: LaunchError without libfaketime, or a C compiler.
    """
    if not _LIBRARY.is_file() or shutil.which("cc") is None:
        raise LaunchError("A clock that is off needs Debian's libfaketime and a C compiler.")
    sleep = folder / "libsleep.so"
    command = ["cc", "-shared", "-fPIC", "-O1", "-x", "c", "-", "-o", str(sleep)]
    subprocess.run(command, input=_SLEEP, text=True, check=True)
    return {
        "LD_PRELOAD": f"{sleep}:{_LIBRARY}",
        "FAKETIME": f"+{hours}h",
        "DONT_FAKE_MONOTONIC": "1",
    }
