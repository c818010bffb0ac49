"""Whose a folder of unfinished shards is, and what of them is done.

While a preparation lasts, a folder beside the shards holds its claim (which source, which
settings) and a record of each finished task. The manifest is written last.
"""

import json
from typing import Any

import pyarrow as pa
import pyarrow.fs

from bt_ray.data.job import Job
from bt_ray.data.location import first_line, locate, public_name, write_whole
from bt_ray.data.manifest import MANIFEST, Manifest
from bt_ray.errors import DataError

REJECTED = "rejected.jsonl"
UNFINISHED = "_unfinished"
_CLAIM = f"{UNFINISHED}/claim.json"


class Claim:
    """A folder that belongs to one preparation, from its first file to its manifest."""

    def __init__(self, root: str) -> None:
        self._shown = public_name(root)
        self._filesystem, self._path = locate(root)

    def make(self, job: Job) -> Manifest | None:
        """Makes the folder the job's own; the manifest if its shards are there already.

        Raises: DataError if the folder cannot be written, or is not this job's.
        """
        mine = {
            "identity": job.source.identity,
            "rows_per_row_group": job.rows_per_row_group,
            "max_side_px": job.treatment.max_side_px,
        }
        try:
            names = {
                info.base_name
                for info in self._filesystem.get_file_info(
                    pa.fs.FileSelector(self._path, allow_not_found=True)
                )
            } - {""}
            if MANIFEST in names:
                return self._finished(mine, job)
            claimed = self._read(_CLAIM)
            if claimed is not None:
                self._refuse_other(claimed, mine, "unfinished shards")
            elif names - {UNFINISHED}:
                raise DataError(
                    f"{self._shown!r} is not empty; give a new folder or remove it first."
                )
            self._filesystem.create_dir(f"{self._path}/{UNFINISHED}", recursive=True)
            if claimed is None:
                self._write(_CLAIM, json.dumps(mine))
        except OSError as error:
            raise unwritable(self._shown, error) from error
        return None

    def _finished(self, mine: dict[str, Any], job: Job) -> Manifest:
        try:
            manifest = Manifest.from_tree(self._read(MANIFEST) or {})
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{self._shown!r} is not empty: its {MANIFEST} is of something else; give a new "
                "folder."
            ) from error
        told = manifest.preparation
        theirs = {
            "identity": manifest.identity,
            "rows_per_row_group": manifest.rows_per_row_group,
            "max_side_px": told.max_side_px if told is not None else None,
        }
        self._refuse_other(theirs, mine, "shards")
        if manifest.num_rejected and job.treatment.on_bad_image == "stop":
            raise DataError(
                f"{self._shown!r} holds these shards already, without {manifest.num_rejected:,} "
                f"images that cannot be decoded ({REJECTED}); give --on-bad-image skip, or repair "
                "the images and give a new folder."
            )
        self._clear()
        return manifest

    def _refuse_other(self, theirs: dict[str, Any], mine: dict[str, Any], what: str) -> None:
        for name, value in mine.items():
            if theirs.get(name) != value:
                way_out = "give a new folder or remove it first"
                raise DataError(
                    f"{self._shown!r} is not empty: it holds {what} of {name}={theirs.get(name)}, "
                    f"where {value} is wanted; {way_out}."
                )

    def records(self) -> dict[str, dict[str, Any]]:
        """What finished tasks of this or an earlier start left, by their names."""
        selector = pa.fs.FileSelector(f"{self._path}/{UNFINISHED}", allow_not_found=True)
        try:
            names = [info.base_name for info in self._filesystem.get_file_info(selector)]
            wanted = [n for n in names if n.endswith(".json") and n != _CLAIM.partition("/")[2]]
            read = {n.removesuffix(".json"): self._read(f"{UNFINISHED}/{n}") for n in wanted}
        except OSError as error:
            raise unwritable(self._shown, error) from error
        return {name: record for name, record in read.items() if record is not None}

    def finish(self, manifest: Manifest, rejected: str) -> None:
        """Writes the list of rejected images, then the manifest, and removes the records."""
        try:
            if manifest.num_rejected:
                self._write(REJECTED, rejected)
            self._write(MANIFEST, manifest.to_json())
            self._clear()
        except OSError as error:
            raise unwritable(self._shown, error) from error

    def _clear(self) -> None:
        info = self._filesystem.get_file_info(f"{self._path}/{UNFINISHED}")
        if info.type == pa.fs.FileType.Directory:
            self._filesystem.delete_dir(f"{self._path}/{UNFINISHED}")

    def _write(self, name: str, text: str) -> None:
        write_whole(self._filesystem, f"{self._path}/{name}", text.encode())

    def _read(self, name: str) -> dict[str, Any] | None:
        path = f"{self._path}/{name}"
        if self._filesystem.get_file_info(path).type != pa.fs.FileType.File:
            return None
        with self._filesystem.open_input_stream(path) as stream:
            tree: dict[str, Any] = json.loads(stream.read())
            return tree


def unwritable(shown: str, error: OSError) -> DataError:
    """What to say when the destination fails."""
    return DataError(
        f"{shown!r} cannot be written ({first_line(error)}); what is finished is kept: make "
        "room or give access, and the same command continues."
    )
