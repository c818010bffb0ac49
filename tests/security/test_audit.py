"""`make audit` with a stand-in for pip-audit: its service is not asked by tests."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_STAND_IN = """
import json, os, pathlib, sys
options = dict(zip(sys.argv[1::1], sys.argv[2::1]))
assert "--require-hashes" in sys.argv and "--disable-pip" in sys.argv
assert options["--vulnerability-service"] == "osv"
if os.environ["ANSWER"] == "none":
    sys.exit("Failed to resolve the service's name")
pathlib.Path(options["--output"]).write_text(os.environ["ANSWER"])
sys.exit(1)
"""
FOUND = {
    "dependencies": [
        {"name": "sound", "version": "1.0", "vulns": []},
        {"name": "left-out", "skip_reason": "not on PyPI"},
        {"name": "ray", "version": "2.60.0", "vulns": [
            {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2.61.0"], "description": ""},
        ]},
    ]
}  # fmt: skip
ENTRY = """
[[accepted]]
id = "CVE-1"
package = "ray"
accepted = 2020-01-01
until = {until}
why = "a test"
"""


def audit(folder: Path, answer: str, accepted: str = "") -> tuple[int, str]:
    """Exit code and words of the audit of one lock file."""
    folder.mkdir()
    shutil.copy(ROOT / ".ci" / "audit.py", folder)
    (folder / "accepted-findings.toml").write_text(accepted)
    (folder / "pip_audit.py").write_text(_STAND_IN)
    done = subprocess.run(
        [sys.executable, str(folder / "audit.py"), "a.lock"],
        capture_output=True, text=True, check=False,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(folder), "ANSWER": answer},
    )  # fmt: skip
    return done.returncode, done.stderr


def test_a_finding_is_told_and_accepted_for_a_while(tmp_path: Path) -> None:
    found = json.dumps(FOUND)
    code, told = audit(tmp_path / "new", found)
    assert (code, "ray 2.60.0: CVE-1, PYSEC-1, mended in 2.61.0." in told) == (1, True)
    code, told = audit(tmp_path / "accepted", found, ENTRY.format(until="9999-01-01"))
    assert (code, "1 findings are accepted, 0 must be seen to" in told) == (0, True)
    code, told = audit(tmp_path / "late", found, ENTRY.format(until="2020-02-01"))
    assert (code, "CVE-1 (ray) was accepted until 2020-02-01: look again." in told) == (1, True)


def test_a_service_that_does_not_answer_is_no_clean_audit(tmp_path: Path) -> None:
    code, told = audit(tmp_path / "a", "none")
    assert code == 2
    assert told.startswith("Nothing was audited: osv does not answer (Failed to resolve")


def test_the_make_target_audits_both_lock_files_and_the_list_is_dated() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert ".ci/audit.py requirements.lock requirements-volta.lock" in makefile
    assert re.search(r"pip-audit==\d+\.\d+\.\d+", makefile)
    assert re.search(
        r"^# 20\d\d-\d\d-\d\d:", (ROOT / ".ci/accepted-findings.toml").read_text(), re.M
    )


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-volta.lock"])
def test_every_pinned_package_has_hashes(lock: str) -> None:
    """And none comes from anywhere but the index that pip is set to."""
    lines = [line for line in (ROOT / lock).read_text().splitlines() if line and line[0] != "#"]
    packages = [line for line in lines if not line.startswith(" ")]
    assert all(re.match(r"[\w.-]+(\[[\w,-]+\])?==", line) for line in packages)
    assert all(line.endswith("\\") for line in packages), "a hash follows"
    assert not [line for line in lines if "://" in line]
