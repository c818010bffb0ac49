"""Which commit a run says that it ran."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bt_ray.tracking import revision


def _say(package: Path) -> str:
    code = "from bt_ray.tracking.revision import git_diff, git_revision; print(git_revision())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=package.parent, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_a_copy_within_somebody_elses_repository_has_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an installed bt_ray has none; once it is theirs, it has their commit."""
    monkeypatch.delenv("BT_RAY_REVISION", raising=False)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    source = Path(revision.__file__)
    copied = tmp_path / "bt_ray" / "tracking"
    copied.mkdir(parents=True)
    (tmp_path / "bt_ray" / "__init__.py").touch()
    (copied / "__init__.py").touch()
    shutil.copy(source, copied)
    (tmp_path / "theirs.txt").write_text("theirs")
    for command in (["init", "-q"], ["add", "theirs.txt"], ["commit", "-qm", "theirs"]):
        subprocess.run([*git, *command], check=True)
    assert _say(tmp_path / "bt_ray") == "unknown"
    for command in (["add", "bt_ray"], ["commit", "-qm", "ours"]):
        subprocess.run([*git, *command], check=True)
    assert len(_say(tmp_path / "bt_ray")) == 40
    (copied / source.name).open("a").write("\n")
    assert _say(tmp_path / "bt_ray").endswith("-dirty")
