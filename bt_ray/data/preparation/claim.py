"""Which job a folder of unfinished files belongs to, and which of its tasks are finished.

During a job, the subfolder `_unfinished` holds the job's claim (its source and settings) and a
record of each finished task. The manifest is written last; then the subfolder is removed.
"""

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.fs

from bt_ray.data.location import MANIFEST, first_line, locate, public_name, write_whole
from bt_ray.errors import DataError

Facts = Mapping[str, Any]
"""The source and settings that distinguish one job from another, by name."""

REJECTED = "rejected.jsonl"
UNFINISHED = "_unfinished"
_CLAIM = f"{UNFINISHED}/claim.json"


class Claim:
    """One job's right to write into a folder, from its first file to its manifest.

    Args:
      root: the folder, a path or URI.
      what: the job's files, as error messages call them, such as `shards`.
    """

    def __init__(self, root: str, what: str) -> None:
        self._what = what
        self._shown = public_name(root)
        self._filesystem, self._path = locate(root)

    def make(self, mine: Facts, *, source: str | None = None) -> dict[str, Any] | None:
        """Claims the folder for the job with these facts.

        Where a job ended at images that cannot be decoded, and its source has been mended since,
        that job's files are removed.

        Args:
          source: its name, as the user gave it.
        Returns: the content of the manifest if the folder is finished already; else None.
        Raises: DataError if the folder cannot be written, or holds anything else.
        """
        try:
            names = {
                info.base_name
                for info in self._filesystem.get_file_info(
                    pa.fs.FileSelector(self._path, allow_not_found=True)
                )
            } - {""}
            if MANIFEST in names:
                return self._manifest()
            claimed = self._read(_CLAIM)
            if self._is_of_no_use(claimed, mine, source, names):
                self._start_over(names)
                claimed = None
            elif claimed is not None:
                self.refuse_other(claimed, mine, f"unfinished {self._what}")
            elif names - {UNFINISHED}:
                raise DataError(
                    f"{self._shown!r} is not empty; give a new folder or remove it first."
                )
            self._filesystem.create_dir(f"{self._path}/{UNFINISHED}", recursive=True)
            if claimed is None:
                self._write(_CLAIM, json.dumps({**mine, "source": source}))
        except OSError as error:
            raise unwritable(self._shown, error) from error
        return None

    def _is_of_no_use(
        self, claimed: Facts | None, mine: Facts, source: str | None, names: set[str]
    ) -> bool:
        """Whether the folder has only what a job left that can no longer go on.

        Its claim was emptied or cut short; or its images were mended since it listed bad ones.
        """
        is_there = self._filesystem.get_file_info(f"{self._path}/{_CLAIM}").is_file
        if claimed is None:
            return is_there and all(map(_is_our_own, names))
        others = {name for name, value in mine.items() if claimed.get(name) != value}
        is_mended = others == {"identity"} and REJECTED in names
        return is_mended and source is not None and claimed.get("source") == source

    def _start_over(self, names: set[str]) -> None:
        self.clear()
        for name in filter(_is_our_own, names - {UNFINISHED}):
            self._filesystem.delete_file(f"{self._path}/{name}")

    def _manifest(self) -> dict[str, Any]:
        tree = self._read(MANIFEST)
        if tree is None:
            raise DataError(
                f"{self._shown!r} is not empty: its {MANIFEST} is no JSON. If it was cut short, "
                "remove the folder, and the same command makes it anew; if it is of something "
                "else, give a new folder."
            )
        return tree

    def foreign(self) -> DataError:
        """The error for a folder whose manifest describes something else."""
        return DataError(
            f"{self._shown!r} is not empty: its {MANIFEST} is of something else; give a new folder."
        )

    def refuse_other(self, theirs: Facts, mine: Facts, what: str | None = None) -> None:
        """Raises DataError unless the facts of the folder, `theirs`, equal the job's, `mine`."""
        for name, value in mine.items():
            if theirs.get(name) != value:
                raise DataError(
                    f"{self._shown!r} is not empty: it holds {what or self._what} of "
                    f"{name}={theirs.get(name)}, where {value} is wanted; give a new folder or "
                    "remove it first."
                )

    def records(self) -> dict[str, dict[str, Any]]:
        """Records of finished tasks, by name, of this start of the job and of earlier ones."""
        selector = pa.fs.FileSelector(f"{self._path}/{UNFINISHED}", allow_not_found=True)
        try:
            names = [info.base_name for info in self._filesystem.get_file_info(selector)]
            wanted = [n for n in names if n.endswith(".json") and n != _CLAIM.partition("/")[2]]
            read = {n.removesuffix(".json"): self._read(f"{UNFINISHED}/{n}") for n in wanted}
        except OSError as error:
            raise unwritable(self._shown, error) from error
        return {name: record for name, record in read.items() if record is not None}

    def finish(self, manifest: str, rejected: str) -> None:
        """Writes the list of rejected images, then the manifest, and removes the records."""
        try:
            self.list_rejected(rejected)
            self._write(MANIFEST, manifest)
            self.clear()
        except OSError as error:
            raise unwritable(self._shown, error) from error

    def list_rejected(self, lines: str) -> None:
        """Writes the list of rejected images, if there are any; else there is none."""
        path = f"{self._path}/{REJECTED}"
        if lines:
            self._write(REJECTED, lines)
        elif self._filesystem.get_file_info(path).is_file:
            self._filesystem.delete_file(path)

    def keep(self, name: str, record: dict[str, Any]) -> None:
        """Keeps a record of the job beside those of its tasks."""
        try:
            self._write(f"{UNFINISHED}/{name}.json", json.dumps(record))
        except OSError as error:
            raise unwritable(self._shown, error) from error

    def clear(self) -> None:
        """Removes the records."""
        info = self._filesystem.get_file_info(f"{self._path}/{UNFINISHED}")
        if info.type == pa.fs.FileType.Directory:
            self._filesystem.delete_dir(f"{self._path}/{UNFINISHED}")

    def _write(self, name: str, text: str) -> None:
        write_whole(self._filesystem, f"{self._path}/{name}", text.encode())

    def _read(self, name: str) -> dict[str, Any] | None:
        """The JSON in a file; None if there is none, or it was emptied or cut short."""
        path = f"{self._path}/{name}"
        if self._filesystem.get_file_info(path).type != pa.fs.FileType.File:
            return None
        with self._filesystem.open_input_stream(path) as stream:
            try:
                tree = json.loads(stream.read())
            except ValueError:
                return None
        return tree if isinstance(tree, dict) else {}


def _is_our_own(name: str) -> bool:
    return name in (UNFINISHED, REJECTED) or name.startswith("shard-")


def unwritable(shown: str, error: OSError) -> DataError:
    """The error for a destination that cannot be written."""
    return DataError(
        f"{shown!r} cannot be written ({first_line(error)}); what is finished is kept: make "
        "room or give access, and the same command continues."
    )
