"""What an encoder needs beside bt_ray to be loaded elsewhere: packages, and a user's own code."""

import ast
import importlib
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from importlib.metadata import packages_distributions
from importlib.util import resolve_name
from pathlib import Path
from typing import NamedTuple

from bt_ray.config import ModelSettings

_OURS = "bt_ray"


class Needs(NamedTuple):
    """Names of packages to install, and files and folders of code to bring along."""

    packages: tuple[str, ...]
    code: tuple[Path, ...] = ()


def needs_of(model: ModelSettings) -> Needs:
    """What the settings' encoder needs.

    Of a user's own encoder that are the module that makes it, whatever it imports from the folder
    that holds it (packages as a whole), and the packages that this code imports.
    """
    library, _, _ = model.encoder.rpartition(":")
    if library == "timm":
        return Needs(("timm",))
    if library == "torchvision" or (model.is_built_in and model.encoder.startswith("resnet")):
        return Needs(("torchvision",))
    return _of_code(library) if library else Needs(())


def _of_code(module: str) -> Needs:
    folder = _folder_above(module.partition(".")[0])
    if folder in _installed():
        return Needs(_packages({module}))
    files, others = _reach(module, folder)
    tops = {folder / file.relative_to(folder).parts[0] for file in files}
    return Needs(_packages(others), tuple(sorted(tops)))


def _reach(module: str, folder: Path) -> tuple[set[Path], set[str]]:
    """The files below a folder that a module's import runs, and what these import from elsewhere.

    They are read, not run.
    """
    left, files, others = [module], set[Path](), set[str]()
    while left:
        name = left.pop()
        base = folder.joinpath(*name.split("."))
        file = next((f for f in (base / "__init__.py", Path(f"{base}.py")) if f.is_file()), None)
        if name.partition(".")[0] == _OURS or file in files:
            continue
        if file is None:
            others.add(name)
            continue
        files.add(file)
        left += [*_imported(name, file), *([name.rpartition(".")[0]] if "." in name else [])]
    return files, others


def _imported(name: str, file: Path) -> Iterator[str]:
    """Names of all modules that a file may import, and of some that are no modules."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            told = "." * node.level + (node.module or "")
            base = resolve_name(told, package) if node.level else told
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _folder_above(top: str) -> Path:
    """The folder on the path of imports that holds a module or package."""
    found = importlib.import_module(top)
    if found.__file__ is None:  # a folder without an __init__.py
        return Path(next(iter(found.__path__))).parent
    file = Path(found.__file__)
    return file.parent.parent if hasattr(found, "__path__") else file.parent


def _installed() -> set[Path]:
    """Where installed packages lie."""
    return {Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")}


def _packages(modules: Iterable[str]) -> tuple[str, ...]:
    """Names of the installed packages that modules belong to."""
    owners = packages_distributions()
    roots = {name.partition(".")[0] for name in modules} - sys.stdlib_module_names - {_OURS}
    return tuple(sorted({owners[root][0] for root in roots if root in owners}))
