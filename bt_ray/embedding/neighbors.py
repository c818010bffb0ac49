"""Finds nearest neighbours among the vectors of a folder, exactly, file by file."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from bt_ray.data.location import MANIFEST, first_line, locate, public_name
from bt_ray.data.shards.manifest import Shard
from bt_ray.embedding.encoder import Computation, load_encoder
from bt_ray.embedding.manifest import EmbeddingManifest
from bt_ray.embedding.part import view_of
from bt_ray.errors import DataError
from bt_ray.evaluation.knn import nearest_in_blocks

_FACTS = ["sample_id", "source", "class_name"]


@dataclass(frozen=True)
class Neighbor:
    """An image, and the cosine similarity (−1 to 1) of its vector to the query's."""

    sample_id: str
    source: str
    class_name: str | None
    similarity: float


@dataclass(frozen=True)
class EmbeddingSet:
    """A folder of vectors, opened for reading; `root` is any path or URI that pyarrow opens."""

    root: str
    manifest: EmbeddingManifest

    @classmethod
    def open(cls, root: str) -> "EmbeddingSet":
        """The vectors in `root`.

        Raises: DataError if there are none, or they are unfinished or of a newer schema.
        """
        filesystem, path = locate(root)
        try:
            with filesystem.open_input_stream(f"{path}/{MANIFEST}") as stream:
                return cls(root, EmbeddingManifest.from_tree(json.loads(stream.read())))
        except FileNotFoundError as error:
            raise DataError(
                f"{public_name(root)!r} holds no finished vectors; write them, or go on with them, "
                "by `python -m pipelines.embed SOURCE DEST --model ENCODER`."
            ) from error
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"The {MANIFEST} in {public_name(root)!r} is not one of vectors; give a folder "
                "that `python -m pipelines.embed` wrote."
            ) from error

    def tables(self, columns: list[str]) -> Iterator[pa.Table]:
        """These columns, file by file. Raises: DataError if one is missing or damaged."""
        return (self._read(file, columns) for file in self.manifest.files)

    def _read(self, file: Shard, columns: list[str]) -> pa.Table:
        filesystem, path = locate(self.root)
        called = f"{public_name(self.root)}/{file.file}"
        way_out = "restore it, or embed the images again in a new folder"
        try:
            with filesystem.open_input_file(f"{path}/{file.file}") as stream:
                size = stream.size()
                if size != file.num_bytes:
                    raise DataError(
                        f"{called} has {size:,} bytes, and the manifest says {file.num_bytes:,}; "
                        f"{way_out}."
                    )
                return pq.read_table(stream, columns=columns, page_checksum_verification=True)
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"{called} cannot be read ({first_line(error)}); {way_out}.") from error

    def vectors(self) -> Iterator[Tensor]:
        """The vectors, float32 (n, F) for each file, in the order of the rows."""
        for table in self.tables(["vector"]):
            yield torch.from_numpy(_matrix(table))

    def vectors_of(self, sample_ids: Sequence[str]) -> Tensor:
        """The vectors (n, F) of the images with these ids.

        Raises: DataError if the folder has no vector of one of them.
        """
        wanted = pa.array(sample_ids, pa.string())
        found: dict[str, np.ndarray[tuple[int], np.dtype[np.float32]]] = {}
        for table in self.tables(["sample_id", "vector"]):
            table = table.filter(pc.is_in(table["sample_id"], value_set=wanted))
            found |= zip(table["sample_id"].to_pylist(), _matrix(table), strict=True)
        missing = [name for name in sample_ids if name not in found]
        if missing:
            raise DataError(
                f"{missing[0]!r} is neither an image file nor the id of an image in "
                f"{public_name(self.root)!r}; ids are in the column sample_id of its files."
            )
        return torch.from_numpy(np.stack([found[name] for name in sample_ids]))

    def vectors_of_files(self, files: Sequence[Path], computation: Computation) -> Tensor:
        """The vectors (n, F) of image files, computed by the folder's encoder.

        Raises: DataError if a file cannot be decoded.
        """
        encoder = load_encoder(self.root, self.manifest.encoder.digest, computation)
        views = []
        for file in files:
            view = view_of(file.read_bytes(), encoder.settings)
            if isinstance(view, str):
                raise DataError(f"{str(file)!r} cannot be decoded ({view}); give another image.")
            views.append(view)
        return torch.from_numpy(encoder(views))

    def look_up(self, queries: Tensor, k: int) -> list[list[Neighbor]]:
        """The k nearest images of each query (n, F), the nearest first."""
        similarities, rows = nearest_in_blocks(queries, self.vectors(), k)
        facts = self._facts(np.unique(rows.numpy()))
        return [
            [Neighbor(*facts[row], similarity) for row, similarity in zip(*pair, strict=True)]
            for pair in zip(rows.tolist(), similarities.tolist(), strict=True)
        ]

    def _facts(
        self, rows: np.ndarray[tuple[int], np.dtype[np.int64]]
    ) -> dict[int, tuple[str, str, str | None]]:
        """Row → sample id, source and class of its image; rows are counted through all files."""
        facts, first = {}, 0
        for file in self.manifest.files:
            here = rows[(rows >= first) & (rows < first + file.num_rows)]
            if len(here):
                told = self._read(file, _FACTS).take(pa.array(here - first)).to_pylist()
                for row, fact in zip(here.tolist(), told, strict=True):
                    facts[row] = (fact["sample_id"], fact["source"], fact["class_name"])
            first += file.num_rows
        return facts


def _matrix(table: pa.Table) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    column = table["vector"].combine_chunks()
    size = column.type.list_size
    values = np.array(column.flatten(), np.float32)  # a copy: torch reads no read-only arrays
    return values.reshape(-1, size)
