"""The architectures of a torch wheel are read from it, without torch and without a GPU."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[1] / "deploy" / "arch_flags.py"


def _show(wheel: Path, library: bytes) -> subprocess.CompletedProcess[str]:
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("torch/lib/libtorch_python.so", library)
    command = [sys.executable, str(TOOL), str(wheel)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("before", [b"\0", b"std::string ipc_h"])
def test_architectures_are_printed_wherever_the_string_begins(
    tmp_path: Path, before: bytes
) -> None:
    """Compilers put strings without a NUL between them into one block, as in torch 2.8.0."""
    library = b"\x7fELF" + before + b"sm_70 sm_90a compute_120\0\0Module.cpp\0sm_ \0"
    shown = _show(tmp_path / "torch.whl", library)
    assert shown.stdout == "torch.whl: sm_70 sm_90a compute_120\n"


def test_a_wheel_for_cpus_is_refused(tmp_path: Path) -> None:
    shown = _show(tmp_path / "torch.whl", b"\x7fELF\0")
    assert shown.returncode == 1
    assert "give a wheel of torch for Linux with CUDA" in shown.stderr
