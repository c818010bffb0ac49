"""The Dockerfiles, read by a parser: no image can be built where no base image can be had."""

import re
import shutil
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).parents[2]
FILES = {"Dockerfile": "requirements.lock", "Dockerfile.volta": "requirements-volta.lock"}


def _parsed(file: str) -> DockerfileParser:
    # By a file object: of a path, the parser takes only files that are called Dockerfile.
    return DockerfileParser(fileobj=BytesIO((ROOT / "deploy" / file).read_bytes()))


def _values(parsed: DockerfileParser, instruction: str) -> list[str]:
    return [each["value"] for each in parsed.structure if each["instruction"] == instruction]


@pytest.mark.parametrize("file", FILES)
def test_the_python_is_that_of_the_locks(file: str) -> None:
    version = re.search(r"--python-version (\S+)", (ROOT / "Makefile").read_text())
    assert version is not None
    assert _parsed(file).baseimage == f"python:{version[1]}-slim-bookworm"


@pytest.mark.parametrize(("file", "lock"), FILES.items())
def test_packages_are_those_of_the_lock_with_their_hashes(file: str, lock: str) -> None:
    installs = [run for run in _values(_parsed(file), "RUN") if "pip install" in run]
    assert [run for run in installs if f"--require-hashes -r {lock}" in " ".join(run.split())]
    assert all("--require-hashes" in run or "--no-deps" in run for run in installs)
    assert "--hash=sha256:" in (ROOT / lock).read_text()


@pytest.mark.parametrize("file", FILES)
def test_nothing_runs_as_root_and_a_token_is_demanded(file: str) -> None:
    parsed = _parsed(file)
    instructions = [each["instruction"] for each in parsed.structure]
    assert _values(parsed, "USER") == ["1000:1000"]
    last_run = len(instructions) - 1 - instructions[::-1].index("RUN")
    assert instructions.index("USER") > last_run
    assert parsed.envs["RAY_AUTH_MODE"] == "token"


@pytest.mark.parametrize("file", FILES)
def test_no_secret_is_in_it(file: str) -> None:
    parsed = _parsed(file)
    names = [*parsed.envs, *(value.partition("=")[0] for value in _values(parsed, "ARG"))]
    secret = re.compile("PASSWORD|SECRET|ACCESS_KEY|(?<!AUTH_MODE)TOKEN", re.IGNORECASE)
    assert [name for name in names if secret.search(name)] == []
    assert not _values(parsed, "ADD")
    assert not [value for value in _values(parsed, "COPY") if value.split()[0] in (".", "*")]


@pytest.mark.parametrize("file", FILES)
def test_what_kuberay_ray_up_and_triton_call_is_there(file: str) -> None:
    [packages] = [run for run in _values(_parsed(file), "RUN") if "apt-get install" in run]
    assert {"wget", "rsync", "openssh-client", "gcc", "libc6-dev"} <= set(packages.split())


def test_both_differ_in_the_lock_alone() -> None:
    default, volta = (
        [(each["instruction"], each["value"]) for each in _parsed(file).structure
         if each["instruction"] != "COMMENT"]
        for file in FILES
    )  # fmt: skip
    assert [
        (instruction, value.replace("requirements-volta.lock", "requirements.lock"))
        for instruction, value in volta
    ] == default


@pytest.mark.run
def test_what_is_copied_suffices_to_install_all_of_it(tmp_path: Path) -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    context = tmp_path / "context"
    context.mkdir()
    for value in _values(_parsed("Dockerfile"), "COPY"):
        for name in value.split()[:-1]:
            assert f"!{name}" in ignored, f"{name} is copied, and .dockerignore leaves it out"
            if (ROOT / name).is_dir():
                shutil.copytree(
                    ROOT / name, context / name, ignore=shutil.ignore_patterns("__pycache__")
                )
            else:
                shutil.copy(ROOT / name, context)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
         "--wheel-dir", str(tmp_path), str(context)], check=True, capture_output=True,
    )  # fmt: skip
    [wheel] = tmp_path.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("bt_ray", "pipelines", "tune_spaces"):
        sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*.py")}
        assert sources
        assert sources <= packed
