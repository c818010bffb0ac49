"""The second CPU of the numeric tests is a lesser one."""

import os
import subprocess
import sys

from tests.lesser_cpu import environment

FOUND = """
import warnings
warnings.simplefilter("error")
import torch
from numpy._core._multiarray_umath import __cpu_features__ as features
print(torch.backends.cpu.get_cpu_capability())
print(*(name for name in features if features[name]))
"""


def test_torch_and_numpy_find_the_least_instructions_there_are_and_warn_of_nothing() -> None:
    found = environment()
    done = subprocess.run(
        [sys.executable, "-c", FOUND],
        env=os.environ | found, capture_output=True, text=True, check=True,
    )  # fmt: skip
    capability, features = done.stdout.splitlines()
    assert capability in ("DEFAULT", "NO AVX")  # as an older torch calls it
    assert not set(features.split()) & set(found["NPY_DISABLE_CPU_FEATURES"].split())
    assert done.stderr == ""
