"""What a sweep's folder belongs to: one space, one set of settings, one arithmetic, one study."""

import json
import logging
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bt_ray.config import Settings, differences, from_json, to_json
from bt_ray.errors import SettingsError
from bt_ray.json_files import read_json, write_json
from bt_ray.precision import Precision
from bt_ray.tuning.order import SweepOrder
from bt_ray.tuning.space import SearchSpace

_log = logging.getLogger(__name__)
_FILE = "sweep.json"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A sweep's folder, taken."""

    folder: Path
    identity: str
    """Drawn when the sweep began: no other sweep has it, wherever its folder lies now."""
    precision: Precision | None
    """The arithmetic of all trials with workers; none: not settled yet."""

    def keep(self, precision: Precision) -> None:
        """Notes the arithmetic, so that a continued sweep has the same."""
        file = self.folder / _FILE
        write_json(file, {**(read_json(file) or {}), "precision": precision})


def claim_folder(folder: Path, space: SearchSpace, settings: Settings, order: SweepOrder) -> Claim:
    """Takes the folder for this sweep.

    Raises: SettingsError if it holds a sweep of other settings.
    """
    file = folder / _FILE
    theirs: dict[str, Any] | None = read_json(file)
    if theirs is None and file.is_file():
        _log.warning("%s is empty or cut: the sweep goes on with the settings given now.", file)
    if theirs is not None:
        changed = differences(settings, from_json(json.dumps(theirs["settings"])))
        if theirs["held_out"] != order.held_out:
            changed.append("held_out")
        if changed:
            raise SettingsError(
                f"There is a sweep {folder.name!r} in {folder.parent} with other settings "
                f"({', '.join(changed)}); give this one another --name, or repeat those settings "
                "to continue it."
            )
    known = theirs or {}
    claim = Claim(
        folder=folder,
        identity=known.get("identity") or secrets.token_hex(8),
        precision=known.get("precision"),
    )
    write_json(
        file,
        {
            "space": space.name,
            "held_out": order.held_out,
            "settings": json.loads(to_json(settings)),
            "identity": claim.identity,
            "precision": claim.precision,
        },
    )
    return claim
