"""The manifest of a checkpoint: its files, and the SHA-256 sum of each.

Nothing of a checkpoint is parsed before its sum is known to hold. So the manifest ends with a sum
of its own: that of all bytes before its last line. A file that it does not list is never read.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from bt_ray.data.shards.manifest import is_plain_name
from bt_ray.errors import AlteredCheckpointError, CheckpointError, NewerSchemaError, RunFailedError

MANIFEST = "manifest.json"
SCHEMA_VERSION = 2
"""Schema 1 had neither sizes, nor the step, nor a sum of its own; it is still read."""

_OLD = re.compile(rb'\{\n(?:  "[\w.]+": "[0-9a-f]{64}",?\n)+\}')
_OLD_LINE = re.compile(rb'"([\w.]+)": "([0-9a-f]{64})"')
_WAY_OUT = "Restore it from a copy, or use another checkpoint."


@dataclass(frozen=True)
class Listed:
    """A file of a checkpoint, as it was written."""

    sha256: str
    num_bytes: int | None = None
    """Its size; none in manifests of schema 1."""


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint's folder must hold, and the hands that take it from there."""

    folder: Path
    files: Mapping[str, Listed]
    step: int | None = None
    """The steps that were done; none in manifests of schema 1."""

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """The manifest in a checkpoint's folder.

        Raises: CheckpointError if there is none, or it was altered; NewerSchemaError.
        """
        try:
            content = find_file(folder, MANIFEST).read_bytes()
        except FileNotFoundError as error:
            raise CheckpointError(
                f"{folder} is no complete checkpoint: it has no {MANIFEST}, which is written last. "
                "Use another one."
            ) from error
        except OSError as error:
            raise _unreadable(folder, MANIFEST, error) from error
        if _OLD.fullmatch(content):
            pairs = _OLD_LINE.findall(content)
            sums = {name.decode(): Listed(digest.decode()) for name, digest in pairs}
            return cls(folder, _plain(folder, sums))
        body = content[: -len(_seal(b""))]
        if content != body + _seal(body):
            raise CheckpointError(
                f"{MANIFEST} in checkpoint {folder} was cut short or altered: its last line is not "
                f"the SHA-256 of the lines before. {_WAY_OUT}"
            )
        return cls._of_body(folder, body)

    @classmethod
    def _of_body(cls, folder: Path, body: bytes) -> "Manifest":
        try:
            tree = json.loads(body + b"}")
            if tree["schema_version"] > SCHEMA_VERSION:
                raise NewerSchemaError(
                    f"The {MANIFEST} of checkpoint {folder} has schema {tree['schema_version']}; "
                    f"this bt_ray reads up to {SCHEMA_VERSION}. Use a newer bt_ray."
                )
            files = {str(name): Listed(**listed) for name, listed in tree["files"].items()}
            step = int(tree["step"])
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise CheckpointError(
                f"{MANIFEST} in checkpoint {folder} is not one of bt_ray ({error!r}). {_WAY_OUT}"
            ) from error
        return cls(folder, _plain(folder, files), step)

    def verify(self, names: Iterable[str] | None = None) -> None:
        """Raises CheckpointError unless these files, or all, are there, and their sums hold."""
        wanted = list(self.files if names is None else names)
        for name in wanted:
            self._check_size(name)
        for name in wanted:
            if self._sha256(name) != self.files[name].sha256:
                raise self._altered(name)

    def glance(self, elsewhere: Mapping[str, int] | None = None) -> None:
        """The same of all small files; of those with tensors that none is missing or cut short.

        Args:
          elsewhere: names and sizes of the files of a storage whose tensors were not brought here.
        """
        for name, listed in self.files.items():
            is_small = listed.num_bytes is None or is_small_file(name)
            self._check_size(name, None if is_small else elsewhere)
            if is_small and self._sha256(name) != listed.sha256:
                raise self._altered(name)

    def content(self, name: str) -> bytes:
        """The bytes of a small file, whose sum holds.

        Raises: CheckpointError if it is not listed, is missing or was altered.
        """
        self._check_size(name)
        try:
            content = find_file(self.folder, name).read_bytes()
        except OSError as error:
            raise _unreadable(self.folder, name, error) from error
        if hashlib.sha256(content).hexdigest() != self.files[name].sha256:
            raise self._altered(name)
        return content

    def require(self, name: str) -> Path:
        """The path of a listed file. Raises: CheckpointError if it is not listed."""
        if name not in self.files:
            raise CheckpointError(
                f"Checkpoint {self.folder} has no {name}: its {MANIFEST} does not list it. "
                "It is of another kind of model; use another one."
            )
        return self.folder / name

    def _check_size(self, name: str, elsewhere: Mapping[str, int] | None = None) -> None:
        expected = self.files[self.require(name).name].num_bytes
        try:
            if elsewhere is None:
                found = find_file(self.folder, name).stat().st_size
            elif name in elsewhere:
                found = elsewhere[name]
            else:
                raise FileNotFoundError(name)
        except FileNotFoundError as error:
            raise CheckpointError(
                f"{name} in checkpoint {self.folder} is missing. {_WAY_OUT}"
            ) from error
        except OSError as error:
            raise _unreadable(self.folder, name, error) from error
        if expected is not None and found != expected:
            raise CheckpointError(
                f"{name} in checkpoint {self.folder} has {found:,} bytes, and the manifest says "
                f"{expected:,}: it was cut short or altered. {_WAY_OUT}"
            )

    def _sha256(self, name: str) -> str:
        try:
            return sha256(self.folder / name)
        except OSError as error:
            raise _unreadable(self.folder, name, error) from error

    def _altered(self, name: str) -> AlteredCheckpointError:
        return AlteredCheckpointError(
            f"{name} in checkpoint {self.folder} was altered: its SHA-256 is not that in the "
            f"manifest. {_WAY_OUT}"
        )


def write_manifest(folder: Path, step: int, sums: Mapping[str, str]) -> None:
    """Writes the manifest of the files in a folder, whose sums are given by name.

    Raises: OSError.
    """
    files = {name: Listed(sums[name], (folder / name).stat().st_size) for name in sorted(sums)}
    tree = {
        "schema_version": SCHEMA_VERSION,
        "step": step,
        "files": {name: asdict(listed) for name, listed in files.items()},
    }
    body = json.dumps(tree, indent=2).removesuffix("\n}").encode()
    (folder / MANIFEST).write_bytes(body + _seal(body))


def _plain(folder: Path, files: Mapping[str, Listed]) -> Mapping[str, Listed]:
    """The files. Raises: CheckpointError if the name of one is a path."""
    outside = [name for name in files if not is_plain_name(name)]
    if outside:
        raise CheckpointError(
            f"{MANIFEST} in checkpoint {folder} lists {outside[0]!r}, which is not the name of a "
            "file in its folder; do not use this checkpoint."
        )
    return files


def _seal(body: bytes) -> bytes:
    """The end of a manifest that begins with `body`; its length is always the same."""
    return f',\n  "sha256": "{hashlib.sha256(body).hexdigest()}"\n}}\n'.encode()


def is_small_file(name: str) -> bool:
    """Whether a checkpoint's file is read at every look at it; not those that hold tensors."""
    return not name.endswith(".safetensors")


def find_file(folder: Path, name: str) -> Path:
    """The file of this name in a folder.

    Raises: FileNotFoundError if there is no plain file; CheckpointError if it is a link that leads
      out of the folder; OSError.
    """
    file = folder / name
    if file.is_symlink() and not file.resolve().is_relative_to(folder.resolve()):
        raise CheckpointError(
            f"{name} in {folder} is a link that leads out of it; put the file itself there."
        )
    if not file.is_file():
        raise FileNotFoundError(f"{file} is no file")
    return file


def sha256(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits. Raises: OSError."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _unreadable(folder: Path, name: str, error: OSError) -> RunFailedError:
    """The error for a storage that fails, which says nothing about the checkpoint."""
    return RunFailedError(
        f"{name} in checkpoint {folder} cannot be read ({error.strerror or error}). See to the "
        "storage, and the same command goes on. If the file is lost, remove its folder: a run "
        "continues from the checkpoint before."
    )
