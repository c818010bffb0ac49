"""Each claim of docs/security.md names tests, and these are there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_ROW = re.compile(r"^\| (.+) \| (.+) \|$", re.MULTILINE)
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
PAGE = (ROOT / "docs" / "security.md").read_text()
CLAIMS = PAGE.partition("\n## Claims\n")[2].partition("\n## ")[0]
ROWS = [row for row in _ROW.findall(CLAIMS) if row[0] not in ("Claim", "---")]


def names_in(file: Path) -> set[str]:
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


@pytest.mark.parametrize(("claim", "proof"), ROWS, ids=range(len(ROWS)))
def test_a_claim_has_tests(claim: str, proof: str) -> None:
    named = _TEST.findall(proof)
    assert named, claim
    for file, name in named:
        assert (ROOT / file).is_file(), file
        assert name in names_in(ROOT / file), name
