"""Each claim of docs/security.md names tests, and these are there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_ROW = re.compile(r"^\| (.+) \| (.+) \|$", re.MULTILINE)
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
ROWS = [
    row for row in _ROW.findall((ROOT / "docs" / "security.md").read_text())
    if row[0] not in ("Claim", "---")
]  # fmt: skip


def tests_of(file: Path) -> set[str]:
    """Names of a file's tests that are not skipped or expected to fail."""
    return {
        node.name
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef)
        and not any(
            "skip" in ast.unparse(d) or "xfail" in ast.unparse(d) for d in node.decorator_list
        )
    }


def test_there_are_claims() -> None:
    assert len(ROWS) >= 10


@pytest.mark.parametrize(("claim", "proof"), ROWS, ids=[claim[:40] for claim, _ in ROWS])
def test_a_claim_has_tests(claim: str, proof: str) -> None:
    named = _TEST.findall(proof)
    assert named, claim
    for file, name in named:
        assert (ROOT / file).is_file(), file
        assert name in tests_of(ROOT / file), name
