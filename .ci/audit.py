"""Asks for known vulnerabilities of the packages in lock files: `make audit`.

pip-audit asks OSV, or PyPI with AUDIT_SERVICE=pypi; it installs nothing. What is accepted stands in
accepted-findings.toml, each with a reason and the day until which it is. The exit code is 1 for
findings and for what was accepted until a day that has passed, 2 if the service does not answer.
"""

import json
import os
import subprocess
import sys
import tempfile
import tomllib
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

ACCEPTED = Path(__file__).with_name("accepted-findings.toml")


def find(lock: str, service: str) -> list[dict[str, Any]]:
    """Findings in a lock file: `package`, `version`, `ids`, `fixed` (versions without it).

    Raises: ConnectionError if nothing came back.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer.json")
        done = subprocess.run(
            [
                sys.executable, "-m", "pip_audit", "--requirement", lock, "--require-hashes",
                "--disable-pip", "--vulnerability-service", service, "--progress-spinner", "off",
                "--format", "json", "--output", str(answer),
            ],
            stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
        if not answer.is_file() or not answer.stat().st_size:
            raise ConnectionError((done.stderr.strip().splitlines() or ["no answer"])[-1])
        told = json.loads(answer.read_text())
    return [
        {
            "package": package["name"],
            "version": package["version"],
            "ids": {found["id"], *found.get("aliases", ())},
            "fixed": found.get("fix_versions", []),
        }
        for package in told["dependencies"]
        for found in package.get("vulns", ())
    ]


def judge(findings: list[dict[str, Any]], accepted: list[dict[str, Any]], today: date) -> list[str]:
    """What must be seen to, in sentences."""
    told = [
        f"{entry['id']} ({entry['package']}) was accepted until {entry['until']}: look again."
        for entry in accepted
        if entry["until"] < today
    ]
    known = {(entry["package"], entry["id"]) for entry in accepted}
    for found in findings:
        if not any((found["package"], name) in known for name in found["ids"]):
            names = ", ".join(sorted(found["ids"]))
            way_out = (
                f"mended in {', '.join(found['fixed'])}" if found["fixed"] else "not mended yet"
            )
            told.append(f"{found['package']} {found['version']}: {names}, {way_out}.")
    return sorted(set(told))


def main(locks: list[str]) -> int:
    """Audits the lock files; the exit code."""
    service = os.environ.get("AUDIT_SERVICE", "osv")
    accepted = tomllib.loads(ACCEPTED.read_text()).get("accepted", [])
    try:
        findings = [found for lock in locks for found in find(lock, service)]
    except ConnectionError as error:
        sys.stderr.write(f"Nothing was audited: {service} does not answer ({error}).\n")
        return 2
    told = judge(findings, accepted, datetime.now(UTC).date())
    for sentence in told:
        sys.stderr.write(f"{sentence}\n")
    sys.stderr.write(
        f"{len(locks)} lock files audited by {service}; {len(accepted)} findings are accepted, "
        f"{len(told)} must be seen to.\n"
    )
    return int(bool(told))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
