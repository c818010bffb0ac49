"""What earlier versions of bt_ray left, as a user of theirs would still have it.

`runs-0.1.0.tar.xz` is the storage folder of commit 97d8747: shards of the digits, a run that was
cut off after 4 of its 6 steps, the encoder that it had registered after all 6, with its MLflow
store, a finished linear evaluation, and what the registered encoder said of one image. In its
texts `@STORAGE@` stands for the folder.
"""

import hashlib
import json
import sqlite3
import tarfile
from pathlib import Path

ARCHIVE = Path(__file__).with_name("runs-0.1.0.tar.xz")
_PLACE = b"@STORAGE@"


def unpack(storage: Path) -> Path:
    """The storage folder, made anew at `storage`, with checksums of the texts that name it."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(storage, filter="data")
    for file in storage.rglob("*"):
        if file.is_file() and _PLACE in (content := file.read_bytes()):
            file.write_bytes(content.replace(_PLACE, str(storage).encode()))
    for manifest in storage.glob("*/**/checkpoint_*/manifest.json"):
        sums = json.loads(manifest.read_text())
        settings = manifest.with_name("settings.json")
        sums[settings.name] = hashlib.sha256(settings.read_bytes()).hexdigest()
        manifest.write_text(json.dumps(sums, indent=2))
    script = storage / "mlflow.sql"
    with sqlite3.connect(storage / "mlflow.db") as database:
        database.executescript(script.read_text())
    script.unlink()
    return storage
