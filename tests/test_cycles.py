"""No module imports itself by way of others, imports for types and inside functions included."""

import ast
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]


def _modules(root: Path) -> dict[str, Path]:
    return {
        ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file
        for room in ("bt_ray", "pipelines", "tune_spaces")
        for file in (root / room).rglob("*.py")
    }


def _imported(source: str, modules: Iterable[str]) -> set[str]:
    """Modules among `modules` that `source` imports anywhere in it."""
    known, found = set(modules), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & known
            found |= submodules or {node.module}
    return found & known


def _cycle(imports: Mapping[str, Iterable[str]]) -> list[str]:
    """One cycle, its first module again at its end; empty if there is none."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_module_imports_itself_by_way_of_others() -> None:
    modules = _modules(ROOT)
    imports = {name: _imported(file.read_text(), modules) for name, file in modules.items()}
    assert len(imports["bt_ray.config"]) > 3  # the imports are seen
    assert _cycle(imports) == []


def test_a_cycle_is_found_however_it_is_written() -> None:
    """For types only, inside a function, of a module or of a name in it."""
    sources = {
        "a": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from room.b import B",
        "room.b": "def f():\n    import c",
        "c": "from room import d",
        "room.d": "import a",
        "room": "",
    }
    imports = {name: _imported(source, sources) for name, source in sources.items()}
    assert set(_cycle(imports)) == {"a", "room.b", "c", "room.d"}
    assert _cycle(imports | {"room.d": set()}) == []
