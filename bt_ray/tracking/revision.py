"""Which code runs: its commit, and how it differs from that."""

import os
import subprocess
from pathlib import Path


def git_revision() -> str:
    """The commit of the code that runs, `-dirty` if files differ from it, or `unknown`.

    A Ray job's copy of the code has no history: BT_RAY_REVISION says it there.
    """
    told = os.environ.get("BT_RAY_REVISION")
    if told:
        return told
    return (
        _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*").strip() or "unknown"
    )


def git_diff() -> str:
    """How the code that runs differs from its commit; empty if it does not, or has none."""
    return _git("diff", "HEAD")


def _git(*arguments: str) -> str:
    """What git says of the repository that this file is part of; empty if it is part of none.

    An installed bt_ray may lie within somebody's repository, which is not its own.
    """
    here = Path(__file__)
    try:
        for command in (("ls-files", "--error-unmatch", here.name), arguments):
            shown = subprocess.run(
                ["git", *command],
                cwd=here.parent,
                capture_output=True,
                text=True,
                errors="replace",
                check=True,
            )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return shown.stdout
