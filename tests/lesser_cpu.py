"""Runs pytest, with the arguments given, as on a CPU that has the least instructions.

What passes on a CPU with AVX-512 and on this one passes on those between. Torch, oneDNN, MKL,
OpenBLAS and NumPy read these variables when they are loaded.
"""

import os
import sys

from numpy._core import _multiarray_umath as numpy_core

LEAST = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OPENBLAS_CORETYPE": "Nehalem",
}


def environment() -> dict[str, str]:
    """What a process must find in its environment, to compute like such a CPU."""
    extras = (name for name in numpy_core.__cpu_dispatch__ if numpy_core.__cpu_features__[name])
    return LEAST | {"NPY_DISABLE_CPU_FEATURES": " ".join(extras)}


if __name__ == "__main__":
    os.execve(
        sys.executable,
        [sys.executable, "-m", "pytest", *sys.argv[1:]],
        os.environ | environment(),
    )
