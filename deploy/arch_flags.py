"""Prints the GPU architectures that a wheel of torch has code for.

    python deploy/arch_flags.py torch-2.7.1-cp311-cp311-manylinux_2_28_x86_64.whl …

It reads the string that `torch._C._cuda_getArchFlags()` returns out of the wheel, so that neither
a GPU nor an installation is needed. (`torch.cuda.get_arch_list()` is empty without a GPU.)
"""

import re
import sys
import zipfile
from pathlib import Path

_LIBRARY = "torch/lib/libtorch_python.so"
_NAME = rb"(?:sm|compute)_\d+[a-z]?"
_FLAGS = re.compile(_NAME + rb"(?: " + _NAME + rb")*(?=\0)")  # no NUL need stand before a string


def arch_flags(wheel: Path) -> str:
    """Architectures as the compiler was given them, such as `sm_70 sm_75 sm_80`.

    Raises: ValueError if the wheel names none, such as one for CPUs.
    """
    with zipfile.ZipFile(wheel) as archive:
        library = archive.read(_LIBRARY) if _LIBRARY in archive.namelist() else b""
    found = set(_FLAGS.findall(library))
    if len(found) != 1:
        raise ValueError(
            f"{wheel.name} has {len(found)} lists of architectures in {_LIBRARY}; "
            "give a wheel of torch for Linux with CUDA."
        )
    return str(found.pop(), "ascii")


def main() -> None:
    """Prints one line a wheel."""
    try:
        for wheel in map(Path, sys.argv[1:]):
            sys.stdout.write(f"{wheel.name}: {arch_flags(wheel)}\n")
    except ValueError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
